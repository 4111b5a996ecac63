//! Device processes and agents of different releases.

use std::os::unix::net::UnixListener;

use super::super::greeting::Greeting;
use super::super::message::SPEAKS;
use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

const fn speaks(oldest: u8, newest: u8) -> Speaks {
    Speaks { oldest, newest }
}

/// A line of a process that speaks those versions, and the agent's end of it. The folder holds the agent's socket.
struct Pair {
    link: Arc<Link>,
    agent: UnixListener,
    stream: UnixStream,
    _folder: tempfile::TempDir,
}

impl Pair {
    fn of(theirs: Speaks) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chunks.sock");
        let agent = UnixListener::bind(&path).unwrap();
        let link = Link::begin(path, "0123-fuse-loop".to_owned(), theirs, PATIENCE).unwrap();
        let (stream, _) = agent.accept().unwrap();
        Self {
            link,
            agent,
            stream,
            _folder: folder,
        }
    }

    /// What an agent that speaks the versions `ours` makes of the process, and does about it.
    fn greet(&mut self, ours: Speaks) -> Greeting {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        let greeting = runtime.block_on(async {
            let stream = self.stream.try_clone().unwrap();
            stream.set_nonblocking(true).unwrap();
            let mut stream = tokio::net::UnixStream::from_std(stream).unwrap();
            Greeting::hear(&mut stream, ours).await.unwrap()
        });
        self.stream.set_nonblocking(false).unwrap();
        self.say(&greeting.answer().unwrap_or(ToProcess::Leave));
        greeting
    }

    fn say(&mut self, word: &ToProcess) {
        self.stream.write_all(&word.encode()).unwrap();
    }

    fn hear(&mut self) -> Option<ToAgent> {
        ToAgent::decode(&read_frame(&mut self.stream).unwrap())
    }

    fn wait_for(&self, is_so: impl Fn(&State) -> bool) {
        let waited = self
            .link
            .changed
            .wait_timeout_while(self.link.state(), PATIENCE, |state| !is_so(state));
        let (state, timeout) = waited.unwrap();
        assert!(!timeout.timed_out(), "{state:?}");
    }

    /// Has the process want a chunk and be answered.
    fn ask(&mut self) {
        let link = Arc::clone(&self.link);
        let asking = thread::spawn(move || link.ask(&[(0, 7)]));
        let request = match self.hear() {
            Some(ToAgent::Want {
                request, chunk: 7, ..
            }) => request,
            other => panic!("{other:?}"),
        };
        self.say(&ToProcess::Kept { request });
        assert_eq!(asking.join().unwrap(), Ok(vec![None]));
    }
}

#[test]
fn agents_and_processes_of_neighbouring_releases_speak_what_both_know() {
    for (theirs, ours, common) in [
        (SPEAKS, SPEAKS, SPEAKS.newest),
        (speaks(1, 1), speaks(1, 2), 1),
        (speaks(1, 2), speaks(1, 1), 1),
        (speaks(1, 2), speaks(1, 2), 2),
        (speaks(1, 3), speaks(2, 9), 3),
    ] {
        let mut pair = Pair::of(theirs);
        let greeting = pair.greet(ours);
        assert_eq!(
            (greeting.theirs, greeting.common),
            (theirs, Some(common)),
            "{theirs} {ours}"
        );
        pair.wait_for(|state| state.version == common);
        pair.ask();
        assert!(!pair.link.state().is_leaving);
    }
}

#[test]
fn without_a_common_version_the_process_leaves() {
    for (theirs, ours) in [
        (speaks(1, 1), speaks(2, 2)),
        (speaks(2, 2), speaks(1, 1)),
        (speaks(1, 2), speaks(4, 9)),
    ] {
        let mut pair = Pair::of(theirs);
        assert_eq!(pair.greet(ours).common, None, "{theirs} {ours}");
        assert!(pair.link.wait_to_leave(PATIENCE), "{theirs} {ours}");
    }
}

#[test]
fn an_agent_without_ranges_is_spoken_with_in_its_version() {
    let mut pair = Pair::of(speaks(1, 2));
    // Such an agent knows this hello, passes over what follows, and tells no version.
    let hello = ToAgent::Hello {
        version: 1,
        device: "0123-fuse-loop".to_owned(),
    };
    assert_eq!(pair.hear(), Some(hello));
    assert_eq!(pair.hear(), Some(ToAgent::Versions(speaks(1, 2))));
    pair.say(&ToProcess::Patience { millis: 20_000 });
    pair.wait_for(|state| state.patience == Duration::from_secs(20));
    assert_eq!(pair.link.state().version, 1);
    pair.ask();
}

#[test]
fn the_next_agent_may_be_of_another_release() {
    let mut pair = Pair::of(speaks(1, 2));
    pair.greet(speaks(1, 2));
    pair.wait_for(|state| state.version == 2);
    pair.stream.shutdown(Shutdown::Both).unwrap();
    (pair.stream, _) = pair.agent.accept().unwrap();
    pair.wait_for(|state| state.version == 1);
    assert_eq!(pair.greet(speaks(1, 1)).common, Some(1));
    pair.ask();
}

#[test]
fn a_version_that_the_process_does_not_speak_ends_the_line() {
    let mut pair = Pair::of(speaks(1, 2));
    pair.say(&ToProcess::Agreed { version: 3 });
    // The process comes again, and is as it was.
    (pair.stream, _) = pair.agent.accept().unwrap();
    assert_eq!(pair.greet(speaks(1, 9)).common, Some(2));
    pair.ask();
}
