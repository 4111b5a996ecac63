//! `tranship swarm` against a tracker in this process: what it shows, what it orders, and its exit codes.

use std::path::Path;

use tranship_source::net::JoinToken;
use tranship_tracker::config::SeedMode;
use tranship_tracker::{Config, Service};

use crate::fixture::{Ran, tranship};

struct Tracker {
    dir: tempfile::TempDir,
    service: Service,
}

impl Tracker {
    async fn start(mode: SeedMode) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            state_dir: dir.path().to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            http_listen: "127.0.0.1:0".parse().unwrap(),
            ..Config::default()
        };
        config.seed.mode = mode;
        let service = Service::start(config, Some(JoinToken::new("token"))).await;
        Self {
            dir,
            service: service.unwrap(),
        }
    }

    /// Runs `tranship swarm` with the operator token.
    async fn swarm(&self, args: &[&str]) -> Ran {
        let token = self.dir.path().join("operator-token");
        self.swarm_with(args, &token).await
    }

    async fn swarm_with(&self, args: &[&str], token: &Path) -> Ran {
        let url = format!("http://{}", self.service.ready().http);
        let mut all = vec!["swarm".to_owned()];
        all.extend(args.iter().map(|&arg| arg.to_owned()));
        let token = token.to_str().unwrap().to_owned();
        all.extend([
            "--tracker".to_owned(),
            url,
            "--token-file".to_owned(),
            token,
        ]);
        let ran = tokio::task::spawn_blocking(move || {
            let args: Vec<&str> = all.iter().map(String::as_str).collect();
            tranship(&args)
        });
        ran.await.unwrap()
    }
}

fn fails(ran: &Ran, code: i32) {
    assert_eq!(ran.code, code, "{}", ran.stderr);
    assert!(ran.stdout.is_empty(), "nothing on stdout");
    for word in ["error: ", "\n  why: ", "\n  next: "] {
        assert!(ran.stderr.contains(word), "{}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_peers_show_the_swarm_as_tables_and_as_json() {
    let tracker = Tracker::start(SeedMode::OnRequest).await;
    let peer_id = tracker.service.ready().peer_id.clone();
    let status = tracker.swarm(&["status", "--output", "json"]).await.json();
    assert_eq!(status["peer_id"], peer_id);
    let text = tracker.swarm(&["status"]).await.ok();
    assert!(
        text.starts_with(&format!("tracker   {peer_id}\n")),
        "{text}"
    );
    assert!(text.contains("\nmembers "), "{text}");
    // The seed joins by itself, at some moment.
    let peers = loop {
        let peers = tracker.swarm(&["peers", "--output", "json"]).await.json();
        if peers.as_array().is_some_and(|peers| !peers.is_empty()) {
            break peers;
        }
    };
    assert_eq!(peers[0]["role"], "seed");
    let table = tracker.swarm(&["peers"]).await.ok();
    assert!(table.starts_with("PEER"), "{table}");
    assert!(table.contains(&peer_id), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_tracker_does_not_know_is_not_found() {
    let tracker = Tracker::start(SeedMode::Off).await;
    let digest = tranship_format::Digest::of(b"unknown").to_string();
    fails(&tracker.swarm(&["image", &digest]).await, 4);
    let peer_id = tracker.service.ready().peer_id.clone();
    fails(&tracker.swarm(&["unban", &peer_id]).await, 4);
    fails(&tracker.swarm(&["ban", "nobody"]).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_wants_the_operators_token_and_is_taken_back() {
    let tracker = Tracker::start(SeedMode::Off).await;
    // Some peer that is no member.
    let peer = Tracker::start(SeedMode::Off).await;
    let peer_id = peer.service.ready().peer_id.clone();
    let wrong = tracker.dir.path().join("wrong-token");
    std::fs::write(&wrong, "wrong").unwrap();
    let refused = tracker.swarm_with(&["ban", &peer_id], &wrong).await;
    fails(&refused, 5);
    assert!(
        refused.stderr.contains("--token-file"),
        "{}",
        refused.stderr
    );
    std::fs::write(&wrong, "\n").unwrap();
    fails(&tracker.swarm_with(&["ban", &peer_id], &wrong).await, 2);
    let absent = tracker.dir.path().join("absent");
    fails(&tracker.swarm_with(&["ban", &peer_id], &absent).await, 4);

    let list = tracker.swarm(&["ban", &peer_id, "--output", "json"]).await;
    assert_eq!(list.json()["peer_ids"][0], peer_id);
    tracker.swarm(&["unban", &peer_id]).await.ok();
    fails(&tracker.swarm(&["unban", &peer_id]).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_does_not_answer_is_unavailable() {
    let tracker = Tracker::start(SeedMode::Off).await;
    let url = format!("http://{}", tracker.service.ready().http);
    tracker.service.stop().await;
    let ran = tokio::task::spawn_blocking(move || {
        let wrong = tranship(&["swarm", "status", "--tracker", "nowhere"]);
        (tranship(&["swarm", "status", "--tracker", &url]), wrong)
    });
    let (away, wrong) = ran.await.unwrap();
    fails(&away, 6);
    assert!(away.stderr.contains("tranship-tracker"), "{}", away.stderr);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
}
