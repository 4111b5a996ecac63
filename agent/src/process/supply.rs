//! The agent's side of the line to device processes: gives the chunks that they ask for.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tranship_device::keeper::identity;

use super::message::{Class, ToAgent, ToProcess, VERSION, frame_len};
use super::{AskError, PROGRAM, SOCKET};
use crate::image::Image;
use crate::lazy::LazyReadError;
use crate::metrics::Reads;

/// Answers to one process that may wait to be written.
const ANSWERS_MAX: usize = 64;

/// See the module's words.
#[derive(Debug)]
pub(crate) struct Supply {
    socket: PathBuf,
    devices: Mutex<BTreeMap<String, Supplied>>,
    reads: Arc<Reads>,
    /// What device processes run.
    program: PathBuf,
    /// How long device processes wait for an agent that is away.
    absence: Duration,
    /// How many there were so far.
    connections: AtomicU64,
}

#[derive(Clone, Debug)]
struct Supplied {
    image: Arc<Image>,
    /// The process that answers the kernel, when there is one, and over which connection it said so: it may have begun another before the end
    /// of the first is seen.
    serving: watch::Sender<Option<(u64, Option<u32>)>>,
    /// Whether what waits is left to the next agent; otherwise it is told when the image goes.
    is_leaving: Arc<AtomicBool>,
    /// Whether it was looked whether its first process is one of before an upgrade.
    was_asked: Arc<AtomicBool>,
}

impl Supply {
    /// Begins to listen in `run_dir`.
    pub(crate) fn begin(
        run_dir: &Path,
        reads: Arc<Reads>,
        absence: Duration,
        tasks: &TaskTracker,
    ) -> io::Result<Arc<Self>> {
        let socket = run_dir.join(SOCKET);
        let listener = crate::control::server::bind(&socket)?;
        let supply = Arc::new(Self {
            socket,
            devices: Mutex::default(),
            reads,
            program: std::env::current_exe()?.with_file_name(PROGRAM),
            absence,
            connections: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&supply);
        let accepted = tasks.clone();
        // It ends with the runtime: device processes are not told that the agent goes, they see it.
        tokio::spawn(async move { accepting.accept(listener, &accepted).await });
        Ok(supply)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Gives the chunks of `image` to the process of `device` from now on.
    pub(crate) fn add(&self, device: &str, image: &Arc<Image>) {
        let supplied = Supplied {
            image: Arc::clone(image),
            serving: watch::Sender::default(),
            is_leaving: Arc::default(),
            was_asked: Arc::default(),
        };
        self.devices().insert(device.to_owned(), supplied);
    }

    /// From now on, chunks of `device` that do not come are the next agent's: its process asks again.
    pub(crate) fn leave(&self, device: &str) {
        if let Some(supplied) = self.devices().get(device) {
            supplied.is_leaving.store(true, Ordering::Release);
        }
    }

    /// And no longer.
    pub(crate) fn remove(&self, device: &str) {
        self.devices().remove(device);
    }

    /// The process that serves `device`.
    pub(crate) fn process(&self, device: &str) -> Option<u32> {
        let devices = self.devices();
        devices
            .get(device)
            .and_then(|supplied| supplied.serving.borrow().and_then(|(_, process)| process))
    }

    /// Waits until a process serves `device`, for `patience` at most; whether one does.
    pub(crate) async fn wait_for_process(&self, device: &str, patience: Duration) -> bool {
        let serving = self
            .devices()
            .get(device)
            .map(|supplied| supplied.serving.subscribe());
        let Some(mut serving) = serving else {
            return false;
        };
        let waiting = serving.wait_for(Option::is_some);
        matches!(tokio::time::timeout(patience, waiting).await, Ok(Ok(_)))
    }

    fn devices(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Supplied>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn accept(self: Arc<Self>, listener: UnixListener, tasks: &TaskTracker) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let supply = Arc::clone(&self);
                    tasks.spawn(async move {
                        if let Err(error) = supply.serve(stream).await {
                            tracing::debug!(%error, "a device process is gone");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a device process was lost");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let process = stream
            .peer_cred()?
            .pid()
            .and_then(|pid| u32::try_from(pid).ok());
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        let (mut from, to) = stream.into_split();
        let Some(ToAgent::Hello { version, device }) = next(&mut from).await? else {
            return Err(io::Error::other("it does not say who it is"));
        };
        let (answers, pending) = mpsc::channel(ANSWERS_MAX);
        let supplied = self.devices().get(&device).cloned();
        // One that is not known yet comes again.
        let Some(supplied) = supplied else {
            return Ok(());
        };
        let stop = supplied.image.stop_token().clone();
        supplied.image.tasks().spawn(write(to, pending));
        if version != VERSION || self.is_outdated(&supplied, process) {
            // There will be one of this agent's version, as soon as that one has left.
            let _ = answers.send(ToProcess::Leave).await;
        }
        let left = async {
            stop.cancelled().await;
            // Of a device that is taken away, reads are answered until its process has gone.
            if !supplied.is_leaving() {
                std::future::pending::<()>().await;
            }
        };
        let outcome = tokio::select! {
            outcome = self.listen(&mut from, &supplied, (connection, process), &answers) => outcome,
            () = left => Ok(()),
            () = self.tell_patience(&supplied, &answers) => Ok(()),
        };
        supplied.serving.send_if_modified(|serving| {
            let is_gone = serving.is_some_and(|(other, _)| other == connection);
            if is_gone {
                *serving = None;
            }
            is_gone
        });
        outcome
    }

    /// Tells a process how long its reads wait, and again whenever that changes; ends when nobody hears it any more.
    async fn tell_patience(&self, supplied: &Supplied, answers: &mpsc::Sender<ToProcess>) {
        let waits = supplied.image.waits();
        let mut policy = waits.policy();
        loop {
            let patience = waits.patience_of_process(self.absence);
            let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            let told = answers.send(ToProcess::Patience { millis }).await;
            if told.is_err() || policy.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether a process runs another program than the one that is there now, as after an upgrade. It is asked once whether it does: a
    /// machine that always says so must not have it replaced for ever.
    fn is_outdated(&self, supplied: &Supplied, process: Option<u32>) -> bool {
        let running = process.map(|pid| identity(Path::new(&format!("/proc/{pid}/exe"))));
        let (Some(Ok(running)), Ok(there)) = (running, identity(&self.program)) else {
            return false;
        };
        !supplied.was_asked.swap(true, Ordering::Relaxed) && running != there
    }

    async fn listen(
        &self,
        from: &mut OwnedReadHalf,
        supplied: &Supplied,
        who: (u64, Option<u32>),
        answers: &mpsc::Sender<ToProcess>,
    ) -> io::Result<()> {
        loop {
            match next(from).await? {
                Some(ToAgent::Serving) => {
                    supplied.serving.send_replace(Some(who));
                }
                Some(ToAgent::Want {
                    request,
                    class,
                    layer,
                    chunk,
                }) => supplied.get(request, class, (layer, chunk), answers),
                Some(ToAgent::Reads { reads, touched }) => {
                    for read in reads {
                        let took = Duration::from_micros(read.micros.into());
                        self.reads.note(read.len.into(), took, read.done);
                    }
                    for (layer, chunk) in touched {
                        supplied.image.touch(layer.into(), chunk);
                    }
                }
                // A newer process's word that this version does not know.
                Some(ToAgent::Hello { .. }) | None => {}
            }
        }
    }
}

impl Supplied {
    fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Gets a chunk and answers, beside everything else.
    fn get(
        &self,
        request: u64,
        class: Class,
        (layer, chunk): (u16, u32),
        answers: &mpsc::Sender<ToProcess>,
    ) {
        let number = usize::from(layer);
        let layer = self.image.layer(number);
        let found = layer.and_then(|layer| Some((layer, layer.blob().table().index(chunk)?)));
        let Some((layer, index)) = found else {
            return;
        };
        if class == Class::Prefetch {
            layer.fetch_ahead(index);
            return;
        }
        self.image.first_reads().note(number, chunk);
        let (layer, answers) = (Arc::clone(layer), answers.clone());
        let leaving = Arc::clone(&self.is_leaving);
        self.image.tasks().spawn(async move {
            // A blob that was found to be another is given to nobody, and each may be the one whose last chunk has just come.
            let got = match layer.check_whole() {
                Ok(()) => layer.demand(index).await,
                Err(error) => Err(error),
            };
            let answer = match got.and_then(|bytes| layer.check_whole().map(|()| bytes)) {
                Ok(_) if layer.blob().has(index) => ToProcess::Kept { request },
                Ok(bytes) => ToProcess::Bytes {
                    request,
                    bytes: bytes.to_vec(),
                },
                Err(error) => ToProcess::Failed {
                    request,
                    error: refusal(&error),
                },
            };
            let is_stopping = matches!(
                answer,
                ToProcess::Failed {
                    error: AskError::Stopping,
                    ..
                }
            );
            if is_stopping && leaving.load(Ordering::Acquire) {
                return;
            }
            // Nobody waits for the answers to one that is gone.
            let _ = answers.send(answer).await;
        });
    }
}

fn refusal(error: &LazyReadError) -> AskError {
    match error {
        LazyReadError::TimedOut { .. } => AskError::TimedOut,
        LazyReadError::Stopping => AskError::Stopping,
        LazyReadError::Refused { .. } | LazyReadError::WrongProof { .. } => {
            tracing::error!(error = error as &dyn Error, "a read of a device fails");
            AskError::Refused {
                reason: error.to_string(),
            }
        }
    }
}

async fn next(from: &mut OwnedReadHalf) -> io::Result<Option<ToAgent>> {
    let mut head = [0; 4];
    from.read_exact(&mut head).await?;
    let mut frame = vec![0; frame_len(head)?];
    from.read_exact(&mut frame).await?;
    Ok(ToAgent::decode(&frame))
}

async fn write(mut to: OwnedWriteHalf, mut answers: mpsc::Receiver<ToProcess>) {
    while let Some(answer) = answers.recv().await {
        if to.write_all(&answer.encode()).await.is_err() {
            return;
        }
    }
}
