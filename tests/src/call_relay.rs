//! A relay between containerd and the snapshotter that knows which call passes, and ends a process in the middle of one.
//!
//! containerd keeps its connection while the agent is away, as it does where systemd holds the socket.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tranship_containerd::connect_lazily;
use tranship_containerd::tonic::Status;
use tranship_containerd::tonic::body::Body;
use tranship_containerd::tonic::codegen::http::{Request, Response};
use tranship_containerd::tonic::codegen::{BoxFuture, Service};
use tranship_containerd::tonic::server::NamedService;
use tranship_containerd::tonic::transport::{Channel, Server};

/// Where in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The snapshotter has not seen it.
    Before,
    /// So many files have been changed for it, in the folders that are watched.
    Within(usize),
    /// The snapshotter has answered, and containerd has not heard it.
    After,
}

/// A process that is to end in the middle of a call.
#[derive(Clone, Debug)]
pub struct Blow {
    /// The call's name, such as `Prepare`.
    pub call: &'static str,
    /// The how many-th of that name from now on, 0 for the first.
    pub number: usize,
    /// Where in it.
    pub moment: Moment,
    /// Who ends, at once.
    pub victim: Pid,
}

/// A running relay; it ends with the value.
#[derive(Debug)]
pub struct CallRelay {
    /// On which calls pass.
    _runtime: Runtime,
    shared: Arc<Shared>,
    socket: PathBuf,
}

#[derive(Debug)]
struct Shared {
    watched: Vec<PathBuf>,
    seen: Mutex<BTreeMap<String, usize>>,
    blow: Mutex<Option<Blow>>,
}

impl CallRelay {
    /// Passes calls on to the snapshotter at `socket`, which need not be there yet; changes in the folders `watched` tell how far it is.
    pub fn before(socket: &Path, watched: Vec<PathBuf>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let shared = Arc::new(Shared {
            watched,
            seen: Mutex::default(),
            blow: Mutex::default(),
        });
        let own = socket.with_extension("relay");
        let serving = {
            let _inside = runtime.enter();
            let listener = UnixListener::bind(&own).expect("a socket");
            let passing = Passing {
                snapshotter: connect_lazily(socket).expect("an address"),
                shared: Arc::clone(&shared),
            };
            Server::builder()
                .add_service(passing)
                .serve_with_incoming(UnixListenerStream::new(listener))
        };
        runtime.spawn(serving);
        Self {
            _runtime: runtime,
            shared,
            socket: own,
        }
    }

    /// Where containerd calls.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Forgets what passed, and prepares a blow.
    pub fn prepare(&self, blow: Option<Blow>) {
        *lock(&self.shared.blow) = blow;
        lock(&self.shared.seen).clear();
    }

    /// Whether the blow is still to come; now it will not any more.
    pub fn calls_off(&self) -> bool {
        lock(&self.shared.blow).take().is_some()
    }

    /// Calls that passed, by name.
    pub fn seen(&self) -> BTreeMap<String, usize> {
        lock(&self.shared.seen).clone()
    }
}

impl Shared {
    /// Counts a call, and takes the blow if it is meant.
    fn arrive(&self, call: &str) -> Option<Blow> {
        let mut seen = lock(&self.seen);
        let before = seen.entry(call.to_owned()).or_default();
        let number = *before;
        *before += 1;
        lock(&self.blow).take_if(|blow| blow.call == call && blow.number == number)
    }
}

#[derive(Clone, Debug)]
struct Passing {
    snapshotter: Channel,
    shared: Arc<Shared>,
}

impl Passing {
    async fn pass(mut self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let name = request.uri().path().rsplit('/').next();
        let blow = self.shared.arrive(name.unwrap_or_default());
        let Some(blow) = blow else {
            return self.pass_on(request).await;
        };
        match blow.moment {
            Moment::Before => {
                strike(blow.victim);
                self.pass_on(request).await
            }
            Moment::Within(number) => {
                let changes = Changes::of(&self.shared.watched);
                let is_over = Over::default();
                let watched = Arc::clone(&is_over.0);
                // A thread of its own: the call may be dropped when its caller is gone.
                let striking = tokio::task::spawn_blocking(move || {
                    changes.wait(number, &watched);
                    strike(blow.victim);
                });
                let answer = self.pass_on(request).await;
                drop(is_over);
                striking.await.expect("a blow");
                answer
            }
            Moment::After => {
                let answer = self.pass_on(request).await;
                strike(blow.victim);
                answer
            }
        }
    }

    async fn pass_on(&mut self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let snapshotter = &mut self.snapshotter;
        let passed = async {
            poll_fn(|context| snapshotter.poll_ready(context)).await?;
            snapshotter.call(request).await
        };
        let passed: Result<_, tranship_containerd::tonic::transport::Error> = passed.await;
        passed.map_err(|error| Status::unavailable(error.to_string()))
    }
}

impl NamedService for Passing {
    const NAME: &'static str = "containerd.services.snapshots.v1.Snapshots";
}

impl Service<Request<Body>> for Passing {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The snapshotter is waited for by each call on its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let passing = self.clone();
        Box::pin(async move {
            let answer = passing.pass(request).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

/// Told when a call is over, answered or not.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Changes in folders.
struct Changes {
    inotify: OwnedFd,
}

impl Changes {
    fn of(folders: &[PathBuf]) -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("a watch");
        let written = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO;
        let kinds = written | WatchFlags::DELETE;
        for folder in folders {
            inotify::add_watch(&inotify, folder, kinds).expect("a watched folder");
        }
        Self { inotify }
    }

    /// Waits until there were so many, or until there will be no more.
    fn wait(&self, number: usize, is_over: &AtomicBool) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut seen = 0;
        while seen < number {
            match reader.next() {
                Ok(_) => seen += 1,
                Err(_) if is_over.load(Ordering::SeqCst) => return,
                Err(_) => std::thread::park_timeout(Duration::from_micros(200)),
            }
        }
    }
}

fn strike(victim: Pid) {
    kill_process(victim, Signal::KILL).expect("a process that runs");
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().expect("nobody panics over it")
}
