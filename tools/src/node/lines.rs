//! What changes between two texts, line by line, as people know it from `diff -u`.

/// Lines shown around a change.
const AROUND: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Same,
    Gone,
    New,
}

/// The changed lines with some around them; empty if nothing changes.
pub(super) fn diff(name: &str, before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let lines = compare(&old, &new);
    let is_shown = |at: usize| {
        let near = at.saturating_sub(AROUND)..(at + AROUND + 1).min(lines.len());
        lines
            .get(near)
            .is_some_and(|near| near.iter().any(|(kind, _)| *kind != Kind::Same))
    };
    let mut text = String::new();
    let mut was_shown = true;
    for (at, (kind, line)) in lines.iter().enumerate() {
        if !is_shown(at) {
            was_shown = false;
            continue;
        }
        if text.is_empty() {
            text = format!("--- {name}\n+++ {name}\n");
        }
        if !was_shown {
            text.push_str("@@\n");
        }
        was_shown = true;
        text.push(match kind {
            Kind::Same => ' ',
            Kind::Gone => '-',
            Kind::New => '+',
        });
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// All lines of both. Configurations have few changes, so what is equal at both ends is set aside first, and what is left is small.
fn compare<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<(Kind, &'t str)> {
    let begin = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, old_begin) = (old.get(begin..).unwrap_or_default(), old.get(..begin));
    let new = new.get(begin..).unwrap_or_default();
    let end = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (old, old_end) = old.split_at(old.len() - end);
    let (new, _) = new.split_at(new.len() - end);
    let same = |line: &&'t str| (Kind::Same, *line);
    let mut lines: Vec<_> = old_begin.unwrap_or_default().iter().map(same).collect();
    // How many lines are common from here on: the longest way through both.
    let width = new.len() + 1;
    let mut common = vec![0_usize; (old.len() + 1) * width];
    let at = |row: usize, column: usize| row * width + column;
    let value = |common: &[usize], place: usize| common.get(place).copied().unwrap_or(0);
    for (row, a) in old.iter().enumerate().rev() {
        for (column, b) in new.iter().enumerate().rev() {
            let best = if a == b {
                value(&common, at(row + 1, column + 1)) + 1
            } else {
                value(&common, at(row + 1, column)).max(value(&common, at(row, column + 1)))
            };
            if let Some(place) = common.get_mut(at(row, column)) {
                *place = best;
            }
        }
    }
    let (mut row, mut column) = (0, 0);
    loop {
        match (old.get(row), new.get(column)) {
            (Some(a), Some(b)) if a == b => {
                lines.push((Kind::Same, *a));
                (row, column) = (row + 1, column + 1);
            }
            (Some(a), Some(_))
                if value(&common, at(row + 1, column)) >= value(&common, at(row, column + 1)) =>
            {
                lines.push((Kind::Gone, *a));
                row += 1;
            }
            (_, Some(b)) => {
                lines.push((Kind::New, *b));
                column += 1;
            }
            (Some(a), None) => {
                lines.push((Kind::Gone, *a));
                row += 1;
            }
            (None, None) => break,
        }
    }
    lines.extend(old_end.iter().map(same));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_what_is_around_them() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let after = "1\n2\n3\n4\nfive\n6\n7\n8\n9\nten\n";
        assert_eq!(
            diff("f", before, after),
            "--- f\n+++ f\n@@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n 9\n+ten\n"
        );
        assert_eq!(diff("f", before, before), "");
        assert_eq!(diff("f", "", "a\n"), "--- f\n+++ f\n+a\n");
        assert_eq!(diff("f", "a\n", ""), "--- f\n+++ f\n-a\n");
    }

    #[test]
    fn both_texts_can_be_made_from_the_comparison() {
        let texts = [
            "",
            "a",
            "a b c",
            "c b a",
            "a a b a",
            "b a c a b",
            "x a y b z",
        ];
        for before in texts {
            for after in texts {
                let split = |text: &'static str| text.split_whitespace().collect::<Vec<_>>();
                let (old, new) = (split(before), split(after));
                let lines = compare(&old, &new);
                let without = |kind: Kind| {
                    let kept = lines.iter().filter(|(other, _)| *other != kind);
                    kept.map(|(_, line)| *line).collect::<Vec<_>>()
                };
                assert_eq!(without(Kind::New), old);
                assert_eq!(without(Kind::Gone), new);
            }
        }
    }
}
