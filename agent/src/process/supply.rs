//! The agent's side of the line to device processes: gives the chunks that they ask for.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tranship_device::Speaks;
use tranship_device::keeper::identity;

use super::greeting::{Greeting, next};
use super::message::{SPEAKS, ToAgent, ToProcess};
use super::supplied::Supplied;
use super::{PROGRAM, SOCKET};
use crate::image::Image;
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
        let supplied = Supplied::new(Arc::clone(image));
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

    /// What the program of device processes speaks, where that of `device` showed that it has no version in common with this agent.
    pub(crate) fn foreign(&self, device: &str) -> Option<Speaks> {
        self.devices().get(device)?.foreign.get().copied()
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
        let greeting = Greeting::hear(&mut from, SPEAKS).await?;
        let (answers, pending) = mpsc::channel(ANSWERS_MAX);
        let supplied = self.devices().get(&greeting.device).cloned();
        // One that is not known yet comes again.
        let Some(supplied) = supplied else {
            return Ok(());
        };
        let stop = supplied.image.stop_token().clone();
        supplied.image.tasks().spawn(write(to, pending));
        if let Some(agreed) = greeting.answer() {
            let _ = answers.send(agreed).await;
        }
        if self.must_leave(&supplied, &greeting, process) {
            // There will be one of this agent's release, as soon as that one has left.
            let _ = answers.send(ToProcess::Leave).await;
        }
        let left = async {
            stop.cancelled().await;
            // Of a device that is taken away, reads are answered until its process has gone.
            if !supplied.is_leaving() {
                std::future::pending::<()>().await;
            }
        };
        let is_understood = greeting.common.is_some();
        let patience = async {
            if !is_understood {
                std::future::pending::<()>().await;
            }
            self.tell_patience(&supplied, &answers).await;
        };
        let outcome = tokio::select! {
            outcome = self.listen(&mut from, greeting, &supplied, (connection, process), &answers) => outcome,
            () = left => Ok(()),
            () = patience => Ok(()),
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

    /// Whether a process is to make room for one of this agent's release.
    fn must_leave(&self, supplied: &Supplied, greeting: &Greeting, process: Option<u32>) -> bool {
        let is_other = self.is_other(process);
        let Greeting { device, theirs, .. } = greeting;
        if greeting.common.is_some() {
            // It is asked once whether it is: a machine that always says so must not have it replaced for ever.
            return is_other.is_some_and(|is_other| {
                !supplied.was_asked.swap(true, Ordering::Relaxed) && is_other
            });
        }
        if is_other == Some(false) {
            // Its successor would be no other, and it reads what is here as well as that one would.
            if supplied.foreign.set(*theirs).is_ok() {
                let program = self.program.display();
                tracing::error!(device, %program, %theirs, ours = %SPEAKS, "the program of device processes has no version in common with this agent: reads of what is not here wait; install all programs of one release and restart the agent");
            }
            return false;
        }
        tracing::warn!(device, process, %theirs, ours = %SPEAKS, "a device process has no version in common with this agent; another takes its place");
        true
    }

    /// Whether a process runs another program than the one that is there now, as after an upgrade, if that can be told.
    fn is_other(&self, process: Option<u32>) -> Option<bool> {
        let running = identity(Path::new(&format!("/proc/{}/exe", process?))).ok()?;
        let there = identity(&self.program).ok()?;
        Some(running != there)
    }

    async fn listen(
        &self,
        from: &mut OwnedReadHalf,
        greeting: Greeting,
        supplied: &Supplied,
        who: (u64, Option<u32>),
        answers: &mpsc::Sender<ToProcess>,
    ) -> io::Result<()> {
        let is_understood = greeting.common.is_some();
        let mut first = greeting.first;
        loop {
            let said = match first.take() {
                None => next(from).await?,
                said => said,
            };
            match said {
                Some(ToAgent::Serving) => {
                    supplied.serving.send_replace(Some(who));
                }
                // What else it says without a common version, its successor says again.
                _ if !is_understood => {}
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
                Some(ToAgent::Hello { .. } | ToAgent::Versions(_)) | None => {}
            }
        }
    }
}

async fn write(mut to: OwnedWriteHalf, mut answers: mpsc::Receiver<ToProcess>) {
    while let Some(answer) = answers.recv().await {
        if to.write_all(&answer.encode()).await.is_err() {
            return;
        }
    }
}
