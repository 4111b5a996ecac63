//! The program `tranship`; all it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tranship_tools::tranship(std::env::args_os())
}
