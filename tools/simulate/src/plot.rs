//! A picture in text: which part is ready by when.

use std::fmt::Write;
use std::time::Duration;

const WIDTH: usize = 60;
const ROWS: usize = 12;

/// One line for each of some equal times from zero to the last of `sorted`, with a bar for the part that is ready by then.
pub(crate) fn rising(sorted: &[Duration]) -> String {
    let mut text = String::new();
    let Some(&last) = sorted.last() else {
        return text;
    };
    for row in 1..=ROWS {
        let at = last * u32::try_from(row).unwrap_or(1) / u32::try_from(ROWS).unwrap_or(1);
        let by_then = sorted.partition_point(|ready| *ready <= at);
        let bar = "█".repeat(by_then * WIDTH / sorted.len());
        let _ = writeln!(
            text,
            "{:>9.3} s  {bar}{}{by_then}",
            at.as_secs_f64(),
            if bar.is_empty() { "" } else { " " }
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_everybody() {
        let ready: Vec<Duration> = (1..=24).map(Duration::from_secs).collect();
        let text = rising(&ready);
        assert_eq!(text.lines().count(), ROWS);
        let last = text.lines().last().unwrap();
        assert!(
            last.ends_with(" 24") && last.contains(&"█".repeat(WIDTH)),
            "{last}"
        );
        assert!(text.lines().next().unwrap().ends_with(" 2"));
    }

    #[test]
    fn nobody_gives_no_picture() {
        assert_eq!(rising(&[]), "");
    }
}
