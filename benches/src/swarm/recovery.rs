//! How quick reads are again after an event.
//!
//! All hosts read over links that are full before the event and after it, so that the slowest reads of a crowd become
//! slower by themselves as it goes on: those after the event say nothing beside those before it. They are compared with
//! those from the same share of all bytes on in runs in which nothing happens, made in turn with the others.

use super::figures::Figures;
use crate::cost::median;

/// The p99 of reads that began 2 s after the event or later, over that from the same moment on where nothing happened,
/// medians of all runs each. None where a run was over by then.
pub(super) fn p99_after_over_base(runs: &[Figures], base: &[Figures]) -> Option<f64> {
    let after = |runs: &[Figures]| {
        let found = runs.iter().map(|run| run.around_event?.after);
        let found: Option<Vec<_>> = found.map(|after| Some(after?.p99)).collect();
        found.unwrap_or_default()
    };
    ratio(after(runs), after(base))
}

fn ratio(mut of: Vec<f64>, mut base: Vec<f64>) -> Option<f64> {
    Some(median(&mut of)? / median(&mut base)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_compared_and_nothing_is_made_of_nothing() {
        assert_eq!(ratio(vec![9.0, 2.0, 3.0], vec![1.0, 2.0, 50.0]), Some(1.5));
        assert_eq!(ratio(Vec::new(), vec![1.0]), None);
        assert_eq!(ratio(vec![1.0], Vec::new()), None);
    }
}
