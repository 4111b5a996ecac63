//! Proofs of blobs that came without a chunk table: made here once, kept, and lent to whoever asks.
//!
//! The tracker signs only what it saw whole: it read the blob, found its digest right, and cut it itself. What it signed
//! outlives it on disk, and counts only while the signature holds, so that a disk that rots lends nothing.
//!
//! Proofs are told apart by registry as well as by blob: who may pull an image of one must not learn what another has.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tranship_format::wire::{MAX_LENT_BLOB_LEN, MAX_LENT_LEN, SignedProof};
use tranship_format::{ChunkTable, Digest};
use tranship_source::net::certificate::Authority;
use tranship_source::net::identity::Identity;
use tranship_source::net::lent;

/// Blobs that are read whole at one time: each takes a file of its length.
const AT_ONCE: usize = 4;
/// A blob that could not be proven is not read again for so long, however many ask.
const REST: Duration = Duration::from_mins(1);
/// Blobs that are being proven, or could not be, at most.
const MAX_STATES: usize = 1024;
/// Proofs kept; the oldest go first.
const MAX_KEPT: usize = 4096;
/// Longest file that is read back: a table, a signature and names.
const MAX_FILE_LEN: u64 = MAX_LENT_LEN as u64 + 4096;

/// What is known of a blob's proof.
#[derive(Debug)]
pub(crate) enum Known {
    /// It is here.
    Ready(Box<SignedProof>),
    /// It is being made; bytes read so far.
    Making(u64),
    /// It could not be made a moment ago, or there is too much to do.
    Failed,
    /// Nothing: whoever hears this makes it, and tells its progress.
    Begin(Arc<AtomicU64>),
}

/// What a node asks for. A lie in it spoils nothing for those who ask rightly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    pub(crate) registry: String,
    pub(crate) manifest: Digest,
    pub(crate) blob: Digest,
    pub(crate) len: u64,
}

#[derive(Debug)]
enum State {
    Making(Arc<AtomicU64>),
    Failed(Instant),
}

/// The proofs of this tracker.
#[derive(Debug)]
pub(crate) struct Proofs {
    dir: PathBuf,
    identity: Identity,
    authority: Authority,
    states: Mutex<BTreeMap<Asked, State>>,
    /// A blob is read while a permit is held.
    pub(crate) turns: Semaphore,
    made_count: AtomicU64,
}

impl Proofs {
    /// Opens the proofs in `dir`, which is made if it is not there.
    pub(crate) fn open(dir: PathBuf, identity: Identity, authority: Authority) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            identity,
            authority,
            states: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
            made_count: AtomicU64::new(0),
        })
    }

    /// Blobs longer than this are not proven: what is read at once must fit `quota_len`, and the table a frame.
    pub(crate) fn max_blob_len(quota_len: u64) -> u64 {
        (quota_len / AT_ONCE as u64).min(MAX_LENT_BLOB_LEN)
    }

    /// Proofs made since the start.
    pub(crate) fn made_count(&self) -> u64 {
        self.made_count.load(Relaxed)
    }

    /// The table of a blob of `len` bytes in `registry`, if it was proven here. Blocks on the disk.
    pub(crate) fn table(&self, registry: &str, blob: &Digest, len: u64) -> Option<ChunkTable> {
        let proof = self.kept(registry, blob)?;
        lent::open(&self.authority, &proof, blob, len).ok()
    }

    /// What is known, and who is to make it. Blocks on the disk.
    /// `may_begin` is whether a new one may be made.
    pub(crate) fn ask(&self, asked: &Asked, may_begin: bool) -> Known {
        // Not before the making has ended, though the proof is kept already: whoever had it sooner would ask for chunks that the
        // seed has not said it has, and be sent to the registry for all of them.
        if let Some(State::Making(progress)) = self.states().get(asked) {
            return Known::Making(progress.load(Relaxed));
        }
        if let Some(proof) = self.kept(&asked.registry, &asked.blob)
            && lent::open(&self.authority, &proof, &asked.blob, asked.len).is_ok()
        {
            return Known::Ready(Box::new(proof));
        }
        let mut states = self.states();
        match states.get(asked) {
            Some(State::Making(progress)) => return Known::Making(progress.load(Relaxed)),
            Some(State::Failed(at)) if at.elapsed() < REST => return Known::Failed,
            Some(State::Failed(_)) | None => {}
        }
        if states.len() >= MAX_STATES {
            forget_old(&mut states);
        }
        if !may_begin || states.len() >= MAX_STATES {
            return Known::Failed;
        }
        let progress = Arc::<AtomicU64>::default();
        states.insert(asked.clone(), State::Making(Arc::clone(&progress)));
        Known::Begin(progress)
    }

    /// Signs the proof of a blob that was read whole and found right, and keeps it. Blocks on the disk.
    pub(crate) fn keep(&self, registry: &str, blob: Digest, table: &ChunkTable) -> io::Result<()> {
        let proof = lent::sign(&self.identity, blob, table);
        let proof = proof.ok_or_else(|| io::Error::other("the tracker's key does not sign"))?;
        let mut bytes = Vec::new();
        proof.encode(&mut bytes);
        self.make_room()?;
        let path = self.path(registry, &blob);
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(&new, &path)?;
        self.made_count.fetch_add(1, Relaxed);
        Ok(())
    }

    /// The making has ended, one way or the other.
    pub(crate) fn ended(&self, asked: &Asked, is_made: bool) {
        let mut states = self.states();
        forget_old(&mut states);
        if is_made {
            states.remove(asked);
        } else {
            states.insert(asked.clone(), State::Failed(Instant::now()));
        }
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<Asked, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, registry: &str, blob: &Digest) -> PathBuf {
        let name = format!("{registry}/{blob}");
        self.dir.join(Digest::of(name.as_bytes()).hex())
    }

    fn kept(&self, registry: &str, blob: &Digest) -> Option<SignedProof> {
        let path = self.path(registry, blob);
        let len = fs::metadata(&path).ok()?.len();
        if len > MAX_FILE_LEN {
            return None;
        }
        SignedProof::decode(&fs::read(&path).ok()?).ok()
    }

    /// Lets the oldest go when there are as many as may be.
    fn make_room(&self) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            kept.push((entry.metadata()?.modified()?, entry.path()));
        }
        kept.sort();
        let surplus = kept.len().saturating_sub(MAX_KEPT - 1);
        for (_, path) in kept.into_iter().take(surplus) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

fn forget_old(states: &mut BTreeMap<Asked, State>) {
    states.retain(|_, state| !matches!(state, State::Failed(at) if at.elapsed() >= REST));
}

/// A directory for blobs that are read whole, empty: what lies there is of an earlier run.
pub(crate) fn scratch(dir: &Path) -> io::Result<PathBuf> {
    let scratch = dir.with_extension("scratch");
    match fs::remove_dir_all(&scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(&scratch)?;
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "registry.example";

    fn proofs(dir: &Path, identity: &Identity) -> Proofs {
        let authority = Authority::of(identity.libp2p_peer()).unwrap();
        Proofs::open(dir.join("proofs"), identity.clone(), authority).unwrap()
    }

    fn asked(blob: Digest, len: u64) -> Asked {
        Asked {
            registry: HERE.to_owned(),
            manifest: Digest::of(b"manifest"),
            blob,
            len,
        }
    }

    #[test]
    fn a_proof_is_made_by_one_and_outlives_the_tracker() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::generate();
        let blob = Digest::of(b"blob");
        let table = ChunkTable::proof(b"blob".as_slice()).unwrap();
        let first = proofs(dir.path(), &identity);
        let Known::Begin(progress) = first.ask(&asked(blob, 4), true) else {
            panic!("nobody makes it yet")
        };
        progress.store(3, Relaxed);
        assert!(matches!(first.ask(&asked(blob, 4), true), Known::Making(3)));
        first.keep(HERE, blob, &table).unwrap();
        assert!(
            matches!(first.ask(&asked(blob, 4), true), Known::Making(3)),
            "the seed has its chunks, but nobody knows"
        );
        first.ended(&asked(blob, 4), true);
        let again = proofs(dir.path(), &identity);
        assert!(matches!(again.ask(&asked(blob, 4), true), Known::Ready(_)));
        assert_eq!(again.table(HERE, &blob, 4), Some(table));
        assert_eq!(again.table("elsewhere.example", &blob, 4), None);
        assert!(
            matches!(again.ask(&asked(blob, 5), true), Known::Begin(_)),
            "another length"
        );
    }

    #[test]
    fn what_failed_is_not_tried_again_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let proofs = proofs(dir.path(), &Identity::generate());
        let blob = Digest::of(b"blob");
        assert!(matches!(proofs.ask(&asked(blob, 4), true), Known::Begin(_)));
        proofs.ended(&asked(blob, 4), false);
        assert!(matches!(proofs.ask(&asked(blob, 4), true), Known::Failed));
    }

    #[test]
    fn no_more_are_made_at_once_than_can_be_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let proofs = proofs(dir.path(), &Identity::generate());
        let blob = |number: usize| Digest::of(&number.to_le_bytes());
        let first = asked(blob(0), 4);
        assert!(matches!(proofs.ask(&first, false), Known::Failed));
        for number in 0..MAX_STATES {
            let known = proofs.ask(&asked(blob(number), 4), true);
            assert!(matches!(known, Known::Begin(_)));
        }
        let one_more = asked(blob(MAX_STATES), 4);
        assert!(matches!(proofs.ask(&one_more, true), Known::Failed));
        proofs.ended(&first, true);
        assert!(matches!(proofs.ask(&one_more, true), Known::Begin(_)));
    }

    #[test]
    fn a_kept_proof_that_was_changed_is_not_lent() {
        let dir = tempfile::tempdir().unwrap();
        let proofs = proofs(dir.path(), &Identity::generate());
        let blob = Digest::of(b"blob");
        let table = ChunkTable::proof(b"blob".as_slice()).unwrap();
        proofs.keep(HERE, blob, &table).unwrap();
        let path = proofs.path(HERE, &blob);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            assert_eq!(proofs.table(HERE, &blob, 4), None, "byte {at}");
        }
        fs::write(&path, &bytes).unwrap();
        assert_eq!(proofs.table(HERE, &blob, 4), Some(table));
    }
}
