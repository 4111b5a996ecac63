//! The agent's side of the keeper: what must outlive the agent is held by two processes at any time, this one and the keeper.
//!
//! Either may die. When this one does, the next takes the descriptors back from the keeper; when the keeper does, a new one is
//! started and given them again. A machine where no keeper can be started works as ever, but a crash of the agent is then seen.

use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tranship_device::keeper::{self, KeeperClient, KeeperError};

/// Name of the keeper's program, beside the agent's own.
const PROGRAM: &str = "tranship-keeper";
/// Name of its socket, in the run directory.
const SOCKET: &str = "keeper.sock";
/// Pauses between tries to start a keeper after one has died.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// See the module's words.
#[derive(Debug)]
pub(crate) struct Keeping {
    socket: PathBuf,
    program: PathBuf,
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keeper: Option<KeeperClient>,
    /// What the keeper is given anew when it dies, by name.
    held: BTreeMap<String, OwnedFd>,
    is_stopping: bool,
}

impl Keeping {
    /// Finds the keeper that an earlier agent left, or starts one, and another whenever it dies. A keeper lets go of everything
    /// when no agent has come for `patience`.
    pub(crate) fn begin(run_dir: &Path, patience: Duration) -> Arc<Self> {
        let program = std::env::current_exe().unwrap_or_default();
        let keeping = Arc::new(Self {
            socket: run_dir.join(SOCKET),
            program: program.with_file_name(PROGRAM),
            patience,
            state: Mutex::default(),
        });
        let outcome = keeping.find(&mut keeping.state());
        keeping.upgrade(&mut keeping.state());
        if let Err(error) = outcome {
            tracing::warn!(
                socket = %keeping.socket.display(),
                error = &error as &dyn Error,
                "there is no keeper; devices do not survive a crash of the agent, which answers them itself"
            );
            return keeping;
        }
        let watching = Arc::clone(&keeping);
        let watcher = thread::Builder::new()
            .name("keeper-watch".to_owned())
            .spawn(move || watching.watch());
        if let Err(error) = watcher {
            tracing::warn!(%error, "the keeper is not watched");
        }
        keeping
    }

    /// Connects to the keeper, unless whoever answers at its socket is none: then devices do without, as nobody would give them anything.
    fn find(&self, state: &mut State) -> Result<(), KeeperError> {
        self.connect(state)?;
        // Keepers of all versions understand this.
        match state.keeper.as_ref().map(KeeperClient::names) {
            Some(Err(error @ KeeperError::NotUnderstood)) => {
                state.keeper = None;
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Connects to the keeper, starting it where nobody answers, and gives it what is held.
    fn connect(&self, state: &mut State) -> Result<(), KeeperError> {
        state.keeper = None;
        let keeper = keeper::connect_or_launch(&self.program, self.patience, &self.socket)?;
        for (name, fd) in &state.held {
            keeper.keep(name, fd.as_fd())?;
        }
        state.keeper = Some(keeper);
        Ok(())
    }

    /// Puts a keeper of this agent's release in the place of an older or a newer one: what that takes, keepers of all versions understand.
    fn upgrade(&self, state: &mut State) {
        if let Some(old) = state.keeper.take_if(|keeper| self.is_outdated(keeper)) {
            self.replace(state, old);
        }
        // The program beside the agent's own may be of another release, too.
        if let Some(Err(error)) = state.keeper.as_ref().map(KeeperClient::version) {
            tracing::warn!(
                error = &error as &dyn Error,
                "the keeper holds what devices consist of, and lets go of nothing before it ends"
            );
        }
    }

    fn replace(&self, state: &mut State, old: KeeperClient) {
        match keeper::replace(old, &self.program, self.patience, &self.socket) {
            Ok(new) => {
                tracing::info!("the keeper was of another release; there is a new one");
                state.keeper = Some(new);
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn Error,
                    "the keeper of another release is not replaced"
                );
                let connected = self.connect(state);
                if let Err(error) = connected {
                    tracing::warn!(error = &error as &dyn Error, "there is no keeper");
                }
            }
        }
    }

    fn is_outdated(&self, keeper: &KeeperClient) -> bool {
        let error: Box<dyn Error> = match (keeper::identity(&self.program), keeper.program()) {
            (Ok(there), Ok(running)) => return running.as_ref() != Some(&there),
            (Err(error), _) => error.into(),
            (_, Err(error)) => error.into(),
        };
        // It does its work.
        tracing::warn!(
            error = &*error,
            "the keeper stays, since it cannot be told whether it is of this agent's release"
        );
        false
    }

    fn watch(&self) {
        loop {
            give_to_the_next(&self.socket, || self.give_anew());
            if self.state().is_stopping {
                return;
            }
        }
    }

    /// Gives another keeper all that is held.
    fn give_anew(&self) -> Result<(), KeeperError> {
        let mut state = self.state();
        if state.is_stopping {
            return Ok(());
        }
        self.connect(&mut state)?;
        tracing::warn!(
            count = state.held.len(),
            "the keeper was gone; there is a new one"
        );
        Ok(())
    }

    /// Has a descriptor of a device held from now on.
    pub(crate) fn keep(&self, device: &str, part: &str, fd: BorrowedFd<'_>) {
        let name = name(device, part);
        let mut state = self.state();
        let kept = match fd.try_clone_to_owned() {
            Ok(copy) => {
                state.held.insert(name.clone(), copy);
                // Without a keeper, the next is given it.
                let keeper = state.keeper.as_ref();
                keeper.map_or(Ok(()), |keeper| keeper.keep(&name, fd))
            }
            Err(source) => Err(KeeperError::Talk { source }),
        };
        if let Err(error) = kept {
            tracing::warn!(
                name,
                error = &error as &dyn Error,
                "a device does not survive a crash of the agent"
            );
        }
    }

    /// What is held of a device that an earlier agent had.
    pub(crate) fn take(&self, device: &str, part: &str) -> Option<OwnedFd> {
        let name = name(device, part);
        let state = self.state();
        match state.keeper.as_ref()?.give(&name) {
            Ok(fd) => fd,
            Err(error) => {
                tracing::warn!(
                    name,
                    error = &error as &dyn Error,
                    "the keeper does not give a descriptor back"
                );
                None
            }
        }
    }

    /// Ends the holding of a device's descriptors.
    pub(crate) fn let_go(&self, device: &str, parts: &[&str]) {
        for part in parts {
            self.let_go_of(&name(device, part));
        }
    }

    fn let_go_of(&self, name: &str) {
        let mut state = self.state();
        state.held.remove(name);
        if let Some(Err(error)) = state.keeper.as_ref().map(|keeper| keeper.let_go(name)) {
            // One that is gone holds nothing.
            tracing::debug!(
                name,
                error = &error as &dyn Error,
                "the keeper was not told to let go"
            );
        }
    }

    /// Device and part of everything that the keeper holds.
    pub(crate) fn names(&self) -> Vec<(String, String)> {
        let names = match self.state().keeper.as_ref().map(KeeperClient::names) {
            None => Vec::new(),
            Some(Ok(names)) => names,
            Some(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn Error,
                    "the keeper does not say what it holds"
                );
                Vec::new()
            }
        };
        let parts = names.iter().filter_map(|name| name.split_once('/'));
        parts
            .map(|(device, part)| (device.to_owned(), part.to_owned()))
            .collect()
    }

    /// Its program, and how many seconds it waits for an agent.
    pub(crate) fn program(&self) -> (PathBuf, u64) {
        (self.program.clone(), self.patience.as_secs())
    }

    /// Where the keeper listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether there is a keeper.
    pub(crate) fn has_keeper(&self) -> bool {
        self.state().keeper.is_some()
    }

    /// Leaves the keeper, which goes too when it holds nothing.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.is_stopping = true;
        state.keeper = None;
        state.held.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Held and given are one after the other at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the keeper at `socket` is gone, and tries until its successor has been given everything: one that another process started has
/// nothing of ours, and may live long.
pub(crate) fn give_to_the_next(socket: &Path, mut give: impl FnMut() -> Result<(), KeeperError>) {
    // Not connected is as good as gone.
    let _ = keeper::wait_for_end(socket);
    let mut pause = FIRST_PAUSE;
    while let Err(error) = give() {
        tracing::warn!(
            error = &error as &dyn Error,
            "the keeper is gone, and there is no new one yet"
        );
        thread::sleep(pause);
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

/// The name under which a part of a device is held.
pub(crate) fn name(device: &str, part: &str) -> String {
    format!("{device}/{part}")
}
