//! The trackers: whether somebody listens where the agent dials them, and what those say that are asked over HTTP.
//!
//! The agent tells whether they have taken it; why they have not is seen from here: nobody listens, another one does, or it is banned.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tranship_agent::control::Status as AgentStatus;
use tranship_tracker::Status;
use tranship_tracker::client::{Client, ClientError};

use super::finding::{Finding, Findings};
use crate::cli::DoctorTrackerArgs;
use crate::swarm;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

pub(super) async fn look(args: &DoctorTrackerArgs, agent: Option<&AgentStatus>) -> Vec<Finding> {
    let mut found = Findings::of("tracker");
    if let Some(agent) = agent {
        for address in &agent.swarm.trackers {
            dial(&mut found, address).await;
        }
    }
    for url in &args.trackers {
        match swarm::client_of(url, args.token_file.as_deref()) {
            Ok(client) => ask(&mut found, url, &client, agent).await,
            Err(failure) => found.bad(
                format!("{}: {}", failure.what(), failure.reason()),
                failure.advice(),
            ),
        }
    }
    found.all()
}

/// Whether somebody listens where nodes dial.
async fn dial(found: &mut Findings, address: &str) {
    let Some((host, port)) = tcp(address) else {
        found.odd(
            format!("{address} is no address that can be tried from here"),
            "write swarm.tracker as /ip4/ADDRESS/tcp/PORT/p2p/PEER or /dns4/NAME/tcp/PORT/p2p/PEER",
        );
        return;
    };
    let why = match timeout(CONNECT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => {
            found.good(format!("somebody listens at {host}:{port}"));
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no connection within {CONNECT:?}"),
    };
    found.bad(
        format!("nobody can be reached at {host}:{port}, where swarm.tracker points: {why}"),
        "start the tracker, let nodes through to its port, or correct the address in the agent's settings",
    );
}

/// Host and port of a multiaddr over TCP.
fn tcp(address: &str) -> Option<(&str, u16)> {
    let mut parts = address.strip_prefix('/')?.split('/');
    let kind = parts.next()?;
    let host = parts.next()?;
    let is_known = matches!(kind, "ip4" | "ip6" | "dns" | "dns4" | "dns6");
    if !is_known || parts.next()? != "tcp" {
        return None;
    }
    Some((host, parts.next()?.parse().ok()?))
}

async fn ask(found: &mut Findings, url: &str, client: &Client, agent: Option<&AgentStatus>) {
    if let Err(error) = client.ready().await {
        found.bad(
            format!("{url}: {}", swarm::failure("is not ready", &error).reason()),
            error.hint().unwrap_or("see the tracker's log"),
        );
        return;
    }
    let status = match client.status().await {
        Ok(status) => status,
        Err(ClientError::Refused {
            status: 401 | 403, ..
        }) => {
            found.unseen(
                format!("{url} is ready; what more it says is for operators"),
                "give its operator token with --token-file",
            );
            return;
        }
        Err(error) => {
            found.bad(
                format!(
                    "{url}: {}",
                    swarm::failure("cannot be asked", &error).reason()
                ),
                error.hint().unwrap_or("see the tracker's log"),
            );
            return;
        }
    };
    told(found, url, &status);
    if let Some(agent) = agent {
        membership(found, url, &status, agent);
    }
}

fn told(found: &mut Findings, url: &str, status: &Status) {
    let connected = status.members.iter().filter(|member| member.connected);
    found.good(format!(
        "{url}: version {} is ready, with {} members connected of {}",
        status.version,
        connected.count(),
        status.members.len()
    ));
    let ours = env!("CARGO_PKG_VERSION");
    if status.version != ours {
        found.odd(
            format!(
                "{url} is version {}, and this command line {ours}",
                status.version
            ),
            "upgrade trackers first, then agents; docs/protocol.md says which versions understand each other",
        );
    }
}

/// Whether the two mean each other.
fn membership(found: &mut Findings, url: &str, status: &Status, agent: &AgentStatus) {
    let end = format!("/p2p/{}", status.peer_id);
    let trackers = &agent.swarm.trackers;
    if !trackers.iter().any(|address| address.ends_with(&end)) {
        found.odd(
            format!(
                "{url} is peer {}, which is none of the agent's trackers",
                status.peer_id
            ),
            "put its address into swarm.tracker or swarm.trackers, if the agent is to join it",
        );
        return;
    }
    let member = status
        .members
        .iter()
        .find(|member| member.peer_id == agent.peer_id);
    match member {
        Some(member) if member.connected => {
            found.good(format!("{url} has the agent as a member"));
        }
        Some(_) => found.bad(
            format!("{url} knows the agent, and has no connection with it"),
            "the agent tries again by itself; its log says what hinders it",
        ),
        None => found.bad(
            format!("{url} does not have the agent as a member"),
            "see that swarm.token_file holds its join token, and tranship swarm peers for who is banned; both logs name the reason",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_dialled_is_read_of_an_address() {
        let end = "p2p/12D3KooWGzBcJyzDjKhQpSpV9n3iLrXCXUxu7PzDHqCUTAMH8Kqp";
        for (address, read) in [
            ("/ip4/192.0.2.1/tcp/9475", Some(("192.0.2.1", 9475))),
            ("/dns4/tracker.example/tcp/1", Some(("tracker.example", 1))),
            ("/ip6/::1/tcp/9475", Some(("::1", 9475))),
            ("/ip4/192.0.2.1/udp/9475", None),
            ("/ip4/192.0.2.1/tcp", None),
            ("/ip4/192.0.2.1/tcp/99999", None),
            ("tracker.example:9475", None),
        ] {
            assert_eq!(tcp(address), read, "{address}");
            assert_eq!(tcp(&format!("{address}/{end}")), read, "{address}");
        }
    }

    #[test]
    fn a_tracker_that_is_not_the_agents_and_one_that_lost_it_are_told_apart() {
        let agent = |trackers: &[&str]| AgentStatus {
            peer_id: "node".to_owned(),
            swarm: tranship_agent::control::SwarmStatus {
                trackers: trackers.iter().map(|text| (*text).to_owned()).collect(),
                ..Default::default()
            },
            ..Default::default()
        };
        let tracker = |connected: Option<bool>| Status {
            peer_id: "T".to_owned(),
            version: "0.0.0".to_owned(),
            members: connected
                .into_iter()
                .map(|connected| tranship_tracker::MemberStatus {
                    peer_id: "node".to_owned(),
                    connected,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let own = agent(&["/ip4/192.0.2.1/tcp/1/p2p/T"]);
        let other = agent(&["/ip4/192.0.2.1/tcp/1/p2p/AT"]);
        for (agent, connected, word) in [
            (&own, Some(true), "good"),
            (&own, Some(false), "BAD"),
            (&own, None, "BAD"),
            (&other, None, "odd"),
        ] {
            let mut found = Findings::of("tracker");
            membership(&mut found, "http://t", &tracker(connected), agent);
            let words: Vec<_> = found.all().iter().map(|one| one.state.word()).collect();
            assert_eq!(words, [word]);
        }
        let mut found = Findings::of("tracker");
        told(&mut found, "http://t", &tracker(Some(true)));
        let words: Vec<_> = found.all().iter().map(|one| one.state.word()).collect();
        assert_eq!(words, ["good", "odd"], "another version is worth a word");
    }
}
