//! A tracker and agents as their own processes, on free ports, in folders that end with the test.
//!
//! A process says on its first line of output where it listens; nothing is guessed and nothing is polled
//! before that line.

use crate::command::{binary, run};
use rustix::process::Pid;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Starts a program with the socket at its input as systemd would: as descriptor 3, said in the environment.
const AS_SYSTEMD: &str = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"";

/// The token with which agents join in tests.
pub const TOKEN: &str = "a-token-for-tests-0123456789abcdef";

/// Lines that are shown of the log of a daemon whose test failed.
const MAX_LINES: usize = 60;

/// One process of ours and the line with which it said that it was ready.
#[derive(Debug)]
struct Daemon {
    process: Child,
    ready: Value,
    log: PathBuf,
}

impl Daemon {
    fn start(program: &Path, config: &Path, log: &Path, listener: Option<&UnixListener>) -> Self {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log file");
        let mut command = if listener.is_some() {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", AS_SYSTEMD]).arg(program);
            shell
        } else {
            Command::new(program)
        };
        let input = listener.map_or_else(Stdio::null, |listener| {
            OwnedFd::from(listener.try_clone().expect("a second handle")).into()
        });
        let mut process = command
            .arg("--config")
            .arg(config)
            .arg("--print-ready")
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .expect("a daemon that starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its output"))
            .read_line(&mut line)
            .expect("a readable line");
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!(
                "{program:?} did not say that it is ready ({error}: {line:?}); it logged:\n{}",
                fs::read_to_string(log).unwrap_or_default()
            )
        });
        Self {
            process,
            ready,
            log: log.to_path_buf(),
        }
    }

    /// A string of the ready line.
    fn said(&self, key: &str) -> String {
        match &self.ready[key] {
            Value::String(text) => text.clone(),
            Value::Array(list) => list[0].as_str().expect("an address").to_owned(),
            other => panic!("the ready line has {key} = {other}"),
        }
    }

    fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }

    /// Asks it to stop and waits until it has; one that ended before is left alone.
    fn stop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        let pid = i32::try_from(self.process.id()).expect("a pid");
        if let Some(pid) = Pid::from_raw(pid) {
            // It may have ended by itself already, which is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        drop(self.process.wait());
    }
}

impl Drop for Daemon {
    #[expect(
        clippy::print_stderr,
        reason = "the test has failed, and shows what it printed"
    )]
    fn drop(&mut self) {
        self.stop();
        // A failure elsewhere than here is told best by what it logged, which goes with its folder.
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- {}\n{}", self.log.display(), last_lines(&log));
        }
    }
}

fn last_lines(log: &str) -> &str {
    let start = log.rmatch_indices('\n').nth(MAX_LINES);
    start.map_or(log, |(at, _)| &log[at + 1..])
}

/// A running tracker.
#[derive(Debug)]
pub struct Tracker {
    daemon: Daemon,
}

impl Tracker {
    /// The address that agents are configured with.
    pub fn address(&self) -> String {
        let listen = self.daemon.said("listen");
        if listen.contains("/p2p/") {
            listen
        } else {
            format!("{listen}/p2p/{}", self.daemon.said("peer_id"))
        }
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// What `tranship swarm` is told of it: where it answers, and the operator's token.
    pub fn operator(&self) -> [String; 4] {
        let token = self.daemon.log.with_file_name("state/operator-token");
        [
            "--tracker".to_owned(),
            format!("http://{}", self.daemon.said("http")),
            "--token-file".to_owned(),
            token.to_string_lossy().into_owned(),
        ]
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.daemon.process)
    }

    /// Its counters, as Prometheus reads them.
    pub fn metrics(&self) -> String {
        get(&self.daemon.said("http"), "/metrics")
    }

    /// Reads of the registry that it has leased out.
    pub fn lease_count(&self) -> u64 {
        let metrics = self.metrics();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("tranship_tracker_leases "));
        line.and_then(|count| count.parse().ok())
            .expect("a count of leases")
    }
}

/// What an agent is given beside the defaults.
#[derive(Debug, Default, Clone)]
pub struct AgentOptions {
    /// The share of its answers to peers that it corrupts, 0 to 1.
    pub corrupt_share: f64,
    /// Without a tracker it reads from the registry alone.
    pub tracker: Option<String>,
    /// Trackers besides that one.
    pub more_trackers: Vec<String>,
    /// Whether it takes the tracker's word on layers without a chunk table.
    pub trust_tracker: bool,
    /// Lines added to its configuration.
    pub extra: String,
}

/// A running agent and its folder.
#[derive(Debug)]
pub struct Agent {
    daemon: Option<Daemon>,
    folder: PathBuf,
    /// The snapshotter's socket, where somebody else has bound it.
    listener: Option<UnixListener>,
}

impl Agent {
    /// The path of its control socket.
    pub fn socket(&self) -> String {
        self.folder
            .join("agent.sock")
            .to_string_lossy()
            .into_owned()
    }

    /// Its own folder, which outlives restarts.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) {
        drop(self.daemon.take());
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        let daemon = self.daemon.as_ref().expect("a running agent");
        Pid::from_child(&daemon.process)
    }

    /// Starts it again in its old folder.
    pub fn restart(&mut self) {
        self.kill();
        let own = self.own_program("tranship-agent");
        let program = if own.exists() {
            own
        } else {
            binary("tranship-agent")
        };
        self.daemon = Some(Daemon::start(
            &program,
            &self.folder.join("agent.toml"),
            &self.folder.join("agent.log"),
            self.listener.as_ref(),
        ));
    }

    /// Puts another file with the same bytes in the place of one of its programs, as a package does that is upgraded. From its next
    /// start on it runs from a folder of its own.
    pub fn replace_program(&self, name: &str) {
        let dir = self.folder.join("bin");
        fs::create_dir_all(&dir).expect("a folder");
        for name in ["tranship-agent", "tranship-keeper", "tranship-device"] {
            let own = self.own_program(name);
            // One file for all, where that is possible: a program is large.
            if !own.exists() && fs::hard_link(binary(name), &own).is_err() {
                fs::copy(binary(name), &own).expect("a program");
            }
        }
        let new = dir.join("new");
        fs::copy(binary(name), &new).expect("a program");
        fs::rename(new, self.own_program(name)).expect("a replaced program");
    }

    fn own_program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// From its next start on it is given the snapshotter's socket, as by systemd.
    pub fn listen_on(&mut self, listener: UnixListener) {
        self.listener = Some(listener);
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.daemon.as_ref().map_or_else(String::new, |daemon| {
            fs::read_to_string(&daemon.log).unwrap_or_default()
        })
    }

    /// Its counters, as Prometheus reads them.
    pub fn metrics(&self) -> String {
        let daemon = self.daemon.as_ref().expect("a running agent");
        get(&daemon.said("http"), "/metrics")
    }

    /// The sum of all samples of a counter whose line contains `label`.
    pub fn counter(&self, name: &str, label: &str) -> f64 {
        self.metrics()
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// One call of the control API; stops the test where the answer is an error.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Value {
        let mut stream = UnixStream::connect(self.socket()).expect("the control socket");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("a sent request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        assert!(
            head.starts_with("HTTP/1.1 2"),
            "{method} {path}: {head}\n{body}\nthe agent logged:\n{}",
            self.log()
        );
        serde_json::from_str(body).unwrap_or(Value::Null)
    }
}

/// A tracker and its agents; all end with the value.
#[derive(Debug)]
pub struct Cluster {
    /// Dropped before the tracker and the folder, so that agents leave while there is someone to tell.
    pub agents: Vec<Agent>,
    /// The tracker, if the test wants one.
    pub tracker: Option<Tracker>,
    folder: TempDir,
}

impl Cluster {
    /// A folder with nothing running yet.
    pub fn empty() -> Self {
        Self {
            agents: Vec::new(),
            tracker: None,
            folder: tempfile::tempdir().expect("a scratch folder"),
        }
    }

    /// The folder of all of them.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A cluster with a tracker and `count` agents that join it.
    pub fn start(count: usize) -> Self {
        let mut cluster = Self::empty();
        cluster.start_tracker();
        for _ in 0..count {
            cluster.start_agent(&AgentOptions {
                tracker: cluster.tracker.as_ref().map(Tracker::address),
                ..AgentOptions::default()
            });
        }
        cluster
    }

    /// Starts the tracker.
    pub fn start_tracker(&mut self) {
        let config = self.configure_tracker("tracker", &[]);
        self.tracker = Some(start(&config));
    }

    /// Two trackers that share a swarm; they end with the value.
    pub fn start_two_trackers(&self) -> [Tracker; 2] {
        let names = ["tracker-a", "tracker-b"];
        let ids = names.map(|name| {
            let config = self.configure_tracker(name, &[]);
            let config = config.to_string_lossy().into_owned();
            let said = run(
                binary("tranship-tracker"),
                &["--config", &config, "--print-peer-id"],
            );
            said.trim().to_owned()
        });
        names.map(|name| start(&self.configure_tracker(name, &ids)))
    }

    /// Writes the settings of a tracker that knows of others by their peer ids; gives where.
    fn configure_tracker(&self, name: &str, others: &[String]) -> PathBuf {
        let folder = self.folder.path().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        let token = folder.join("token");
        fs::write(&token, TOKEN).expect("a token");
        let config = folder.join("tracker.toml");
        fs::write(
            &config,
            format!(
                "state_dir = {:?}\nlisten = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\ntoken_file = {:?}\ntrackers = {others:?}\n\n[seed]\ndir = {:?}\nquota = \"4GiB\"\n",
                folder.join("state"),
                token,
                folder.join("seed"),
            ),
        )
        .expect("a configuration");
        config
    }

    /// Starts one more agent and returns its place in `agents`.
    pub fn start_agent(&mut self, options: &AgentOptions) -> usize {
        let folder = self
            .folder
            .path()
            .join(format!("agent-{}", self.agents.len()));
        fs::create_dir_all(&folder).expect("a folder");
        // A registry, a tracker, three agents and the tests share two cores here: patience enough that slowness of all is
        // not taken for a fault of one.
        let swarm = options.tracker.as_ref().map_or_else(String::new, |tracker| {
            format!(
                "\n[swarm]\ntracker = {tracker:?}\ntrackers = {:?}\ntoken = {TOKEN:?}\nlisten = \"127.0.0.1:0\"\ndemand_patience = \"2s\"\ntrust_proofs = {}\n",
                options.more_trackers, options.trust_tracker
            )
        });
        let fault = if options.corrupt_share > 0.0 {
            format!("\n[fault]\ncorrupt_share = {}\n", options.corrupt_share)
        } else {
            String::new()
        };
        fs::write(
            folder.join("agent.toml"),
            format!(
                "state_dir = {:?}\ncontrol_socket = {:?}\nhttp_listen = \"127.0.0.1:0\"\n{}\n[store]\ndir = {:?}\nquota = \"8GiB\"\n{swarm}{fault}",
                folder.join("state"),
                folder.join("agent.sock"),
                options.extra,
                folder.join("store"),
            ),
        )
        .expect("a configuration");
        let mut agent = Agent {
            daemon: None,
            folder,
            listener: None,
        };
        agent.restart();
        self.agents.push(agent);
        self.agents.len() - 1
    }
}

/// Starts a tracker with the settings in this file, beside which it logs.
fn start(config: &Path) -> Tracker {
    let log = config.with_extension("log");
    let daemon = Daemon::start(&binary("tranship-tracker"), config, &log, None);
    Tracker { daemon }
}

/// The body of a plain HTTP answer.
fn get(address: &str, path: &str) -> String {
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).expect("an HTTP listener");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .expect("a sent request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .expect("a whole answer")
}
