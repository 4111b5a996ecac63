//! The threads that compress. The formats know none: they are lent these.
//!
//! They live as long as whoever holds the last handle to them, so one set serves all layers of an image.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use tranship_format::Workers;
use tranship_format::block::Work;

/// As many threads as were asked for, or as this process may use cores. One is none: the thread that writes compresses.
///
/// # Errors
/// The system gives no thread.
pub(super) fn workers(asked: Option<usize>) -> io::Result<Workers> {
    let count = match asked {
        Some(count) => count,
        None => thread::available_parallelism()?.get(),
    };
    if count < 2 {
        return Ok(Workers::none());
    }
    // Writers bound what is waiting here: they hand over only so much before they wait for the first.
    let (sender, receiver) = mpsc::channel::<Work>();
    let receiver = Arc::new(Mutex::new(receiver));
    for number in 0..count {
        let receiver = Arc::clone(&receiver);
        thread::Builder::new()
            .name(format!("compress-{number}"))
            .spawn(move || {
                let next = || {
                    let waiting = receiver.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.recv()
                };
                while let Ok(work) = next() {
                    work();
                }
            })?;
    }
    Ok(Workers::new(count, move |work| {
        // Without threads the work is dropped, and its writer told so.
        let _died = sender.send(work);
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tranship_format::{LayerOptions, LayerWriter, Sector};

    use super::*;

    #[test]
    fn any_number_of_threads_makes_the_same_blob() {
        let blob = |count| {
            let workers = workers(Some(count)).unwrap();
            let out = Cursor::new(Vec::new());
            let mut writer =
                LayerWriter::with_workers(out, LayerOptions::default(), workers).unwrap();
            for number in 0..40_u64 {
                let data: Vec<u8> = (0..9_000_u64)
                    .flat_map(|word| (word * word * number).to_le_bytes())
                    .take(135 * 512)
                    .collect();
                writer.write(Sector(number * 140), &data).unwrap();
            }
            writer.finish(1 << 23).unwrap().0.into_inner()
        };
        let alone = blob(1);
        assert!([2, 5].into_iter().all(|count| blob(count) == alone));
    }
}
