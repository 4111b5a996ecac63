//! tracker
fn main() {}
