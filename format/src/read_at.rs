//! Reading at any place, the one thing that layers ask of whatever holds their bytes.
//!
//! A blob may be a file, a slice of memory, or a run of chunks of which most are still elsewhere; `std::io::Read` has a
//! position that readers would have to share, so this is its own trait.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::address::ByteRange;

/// Bytes of a known length that can be read at any offset, by many at once.
pub trait ReadAt: Send + Sync {
    /// Number of bytes.
    fn len(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` if not all of them are within [`len`](Self::len), and whatever keeps the bytes from being had;
    /// what `buf` holds then is unspecified.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The error of a read that goes beyond the end.
pub(crate) fn beyond_the_end(offset: u64, want: usize, len: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("{want} bytes at {offset} are not all within {len} bytes"),
    )
}

impl ReadAt for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let found = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?))
            .ok_or_else(|| beyond_the_end(offset, buf.len(), self.len() as u64))?;
        buf.copy_from_slice(found);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        ReadAt::len(self.as_slice())
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.as_slice().read_exact_at(offset, buf)
    }
}

impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        ReadAt::len(self.as_ref())
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.as_ref().read_exact_at(offset, buf)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(offset, buf)
    }
}

/// A part of something readable, with offsets counted from the part's beginning.
#[derive(Clone, Copy, Debug)]
pub struct Window<R> {
    inner: R,
    range: ByteRange,
}

impl<R: ReadAt> Window<R> {
    /// The bytes `range` of `inner`; `None` if `inner` does not have them all.
    pub fn new(inner: R, range: ByteRange) -> Option<Self> {
        (range.start <= range.end && range.end <= inner.len()).then_some(Self { inner, range })
    }

    /// Which bytes of the inner one these are.
    pub fn range(&self) -> ByteRange {
        self.range
    }

    /// The same bytes of what `change` makes of the inner one.
    pub fn map<S>(self, change: impl FnOnce(R) -> S) -> Window<S> {
        Window {
            inner: change(self.inner),
            range: self.range,
        }
    }
}

impl<R: ReadAt> ReadAt for Window<R> {
    fn len(&self) -> u64 {
        self.range.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let fits = offset
            .checked_add(buf.len() as u64)
            .is_some_and(|end| end <= self.range.len());
        if !fits {
            return Err(beyond_the_end(offset, buf.len(), self.range.len()));
        }
        self.inner
            .read_exact_at(self.range.start.saturating_add(offset), buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_beyond_the_end_is_refused_and_never_short() {
        let bytes = vec![1, 2, 3, 4];
        let mut buf = [0; 2];
        bytes.read_exact_at(2, &mut buf).unwrap();
        assert_eq!(buf, [3, 4]);
        assert_eq!(
            bytes.read_exact_at(3, &mut buf).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(
            bytes.read_exact_at(u64::MAX, &mut buf).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        bytes.read_exact_at(4, &mut []).unwrap();
    }

    #[test]
    fn a_window_shows_its_part_only() {
        let bytes: Arc<dyn ReadAt> = Arc::new(Bytes::from_static(b"0123456789"));
        let window = Window::new(bytes.clone(), ByteRange::new(3, 6)).unwrap();
        let mut buf = [0; 3];
        window.read_exact_at(0, &mut buf).unwrap();
        assert_eq!((&buf, window.len()), (b"345", 3));
        assert!(window.read_exact_at(1, &mut buf).is_err());
        assert!(window.read_exact_at(u64::MAX, &mut buf).is_err());
        assert!(Window::new(bytes, ByteRange::new(3, 11)).is_none());
    }
}
