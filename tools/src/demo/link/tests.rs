//! Links keep to their rate, alone and shared, and relays deliver every byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

fn sent(link: &Link) -> u64 {
    link.up.bytes.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_link_is_shared_by_its_connections() {
    let link = Link::new("8mbit".parse().unwrap());
    let begin = Instant::now();
    let half = async {
        for _ in 0..50 {
            pass(10_000, Some(&link), None).await;
        }
    };
    let other = async {
        for _ in 0..50 {
            pass(10_000, Some(&link), None).await;
        }
    };
    tokio::join!(half, other);
    let took = begin.elapsed();
    assert!(
        (Duration::from_millis(990)..Duration::from_millis(1010)).contains(&took),
        "{took:?}"
    );
    assert_eq!(sent(&link), 1_000_000);
    assert_eq!(link.received(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_slower_end_decides() {
    let (slow, fast) = (
        Link::new("8mbit".parse().unwrap()),
        Link::new("1gbit".parse().unwrap()),
    );
    let begin = Instant::now();
    for _ in 0..10 {
        pass(100_000, Some(&fast), Some(&slow)).await;
    }
    assert!(begin.elapsed() >= Duration::from_millis(990));
}

#[tokio::test]
async fn a_relay_delivers_every_byte_both_ways_and_charges_both_ends() {
    let rate = "10gbit".parse().unwrap();
    let (server_link, client_link, machines) =
        (Link::new(rate), Link::new(rate), Machines::default());
    machines.place(std::process::id(), &client_link);
    let relay = Relay::start(Arc::clone(&server_link), machines).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();

    let mut client = TcpStream::connect(relay.address()).await.unwrap();
    relay.forward_to(listener.local_addr().unwrap());
    let (mut server, _) = listener.accept().await.unwrap();
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let writing = async {
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let echoing = async {
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        server.write_all(&received).await.unwrap();
        drop(server);
    };
    let (answer, ()) = tokio::join!(writing, echoing);
    assert_eq!(answer, bytes);
    assert_eq!((sent(&client_link), sent(&server_link)), (300_000, 300_000));
    assert_eq!(
        (client_link.received(), server_link.received()),
        (300_000, 300_000)
    );
}
