//! Results on stdout: a table for people, JSON for scripts. Talk goes to stderr, so that a pipe only carries data.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::failure::{Exit, Explain, Failure, Outcome};

/// The form of a verb's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines and tables for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// Writes text to stdout. A reader that went away (`| head`) is no failure worth a message: the verb ends at once.
pub(crate) fn print(text: &str) -> Outcome {
    print_bytes(text.as_bytes())
}

/// Writes bytes to stdout, as [`print()`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| closed_stdout(&error))
}

fn closed_stdout(error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, "cannot write to stdout")
        .because(error)
        .next("check where stdout goes, and its space")
}

/// Prints one JSON document with a line end.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Outcome {
    let mut text =
        serde_json::to_string_pretty(value).explain(|| "cannot write the result as JSON".into())?;
    text.push('\n');
    print(&text)
}

/// Talks to the user on stderr; never data.
#[expect(clippy::print_stderr, reason = "stderr is where a command line talks")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// An empty table in the house's style: a header line, no boxes, so that columns can be cut by `awk` too.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.map(Cell::new));
    table
}

/// A cell for a number: right-aligned, since people compare numbers by their last digit.
pub(crate) fn number(text: impl Into<String>) -> Cell {
    Cell::new(text.into()).set_alignment(CellAlignment::Right)
}

/// Prints a table without the blanks that pad its last column.
pub(crate) fn print_table(table: &Table) -> Outcome {
    print(&text_of(table))
}

/// A table's text without the blanks that pad its first and last columns.
pub(crate) fn text_of(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.strip_prefix(' ').unwrap_or(line).trim_end());
        text.push('\n');
    }
    text
}

/// A length in binary units, as people read it.
pub(crate) fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_blanks_at_their_edges() {
        let mut table = table(["NAME", "SIZE"]);
        table.add_row([Cell::new("a"), number("1")]);
        for line in text_of(&table).lines() {
            assert_eq!(line, line.trim(), "{line:?}");
        }
    }

    #[test]
    fn sizes_carry_binary_units() {
        assert_eq!(size(1536), "1.5 KiB");
    }
}
