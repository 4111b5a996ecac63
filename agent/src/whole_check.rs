//! The last word on a blob that is read by a proof: its own digest, once all of it is here.
//!
//! A proof is worth what its writer is trusted with. The digest is in the manifest and needs nobody's word, but says nothing
//! before the last byte. So chunks are read by the proof as they come, and a blob that turns out to be another is kept from
//! everybody from then on: its reads fail, its chunks leave the store, and the proof is not used again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_format::{Digest, DigestWriter};
use tranship_store::{BlobStore, StoreError};

use crate::image::{Voucher, Vouchers};
use crate::metrics::Reads;

const UNCHECKED: u8 = 0;
const RUNNING: u8 = 1;
const RIGHT: u8 = 2;
const WRONG: u8 = 3;

/// The check of one blob that a device reads.
#[derive(Clone, Debug)]
pub(crate) struct WholeCheck(Arc<Check>);

#[derive(Debug)]
struct Check {
    blob: BlobStore,
    voucher: Voucher,
    state: AtomicU8,
    vouchers: Arc<Vouchers>,
    reads: Arc<Reads>,
}

impl WholeCheck {
    /// `voucher` is whose word the blob's table counts on until then.
    pub(crate) fn new(
        blob: BlobStore,
        voucher: Voucher,
        vouchers: Arc<Vouchers>,
        reads: Arc<Reads>,
    ) -> Self {
        Self(Arc::new(Check {
            blob,
            voucher,
            state: AtomicU8::new(UNCHECKED),
            vouchers,
            reads,
        }))
    }

    /// Whether the blob was found to be another.
    pub(crate) fn is_wrong(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == WRONG
    }

    /// Whether the blob was found to be what the manifest says.
    pub(crate) fn is_right(&self) -> bool {
        self.0.state.load(Ordering::Acquire) == RIGHT
    }

    /// Begins the check if every chunk is here and none has begun. Cheap when there is nothing to do.
    pub(crate) fn begin_if_whole(
        &self,
        tasks: &TaskTracker,
        runtime: &Handle,
        stop: &CancellationToken,
    ) {
        let check = &self.0;
        if check.state.load(Ordering::Acquire) != UNCHECKED
            || check.blob.present_count() != check.blob.table().count()
        {
            return;
        }
        let begun =
            check
                .state
                .compare_exchange(UNCHECKED, RUNNING, Ordering::AcqRel, Ordering::Acquire);
        if begun.is_ok() {
            let (check, stop) = (Arc::clone(check), stop.clone());
            tasks.spawn_blocking_on(move || check.run(&stop), runtime);
        }
    }
}

impl Check {
    fn run(&self, stop: &CancellationToken) {
        let blob = self.blob.digest();
        let state = match self.digest(stop) {
            Ok(Some(found)) if found == blob => {
                tracing::info!(%blob, "a blob that is read by a proof is whole, and has its digest");
                let table = self.blob.table();
                self.vouchers.note(&blob, table, Voucher::Digest);
                RIGHT
            }
            Ok(Some(found)) => {
                self.condemn(found);
                WRONG
            }
            // A chunk went meanwhile, or the device goes: once all are here again it is tried again.
            Ok(None) => UNCHECKED,
            Err(error) => {
                tracing::warn!(%blob, error = &error as &dyn std::error::Error, "the store cannot be read; a blob's digest is not checked");
                UNCHECKED
            }
        };
        self.state.store(state, Ordering::Release);
    }

    /// The digest of all bytes; `None` if a chunk is not here.
    fn digest(&self, stop: &CancellationToken) -> Result<Option<Digest>, StoreError> {
        let mut whole = DigestWriter::new(io::sink());
        for index in self.blob.table().all() {
            if stop.is_cancelled() {
                return Ok(None);
            }
            let Some(chunk) = self.blob.get(index)? else {
                return Ok(None);
            };
            // Hashing into a sink cannot fail.
            let _infallible = io::Write::write_all(&mut whole, chunk.bytes());
        }
        let (_, digest, _) = whole.finish();
        Ok(Some(digest))
    }

    fn condemn(&self, found: Digest) {
        let blob = self.blob.digest();
        self.vouchers
            .note(&blob, self.blob.table(), Voucher::Nobody);
        // From here on nobody reads it: see `WholeCheck::is_wrong`.
        self.state.store(WRONG, Ordering::Release);
        if let Err(error) = self.blob.clear() {
            tracing::warn!(%blob, error = &error as &dyn std::error::Error, "wrong chunks could not be cleared from the store");
        }
        tracing::error!(
            %blob,
            %found,
            proof = ?self.voucher,
            "a proof lied: the blob that it proves has another digest. What was read of it cannot be trusted; stop what runs from this image, attach it again, and look into who wrote the proof"
        );
        // Last: whoever sees it counted may rely on nobody reading it any more.
        self.reads.note_wrong_proof();
    }
}
