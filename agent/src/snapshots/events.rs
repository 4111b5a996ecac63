//! One event for each image that is decided about, on containerd's own bus: lazy or not, and why.
//!
//! Whoever listens there (`ctr events`, a node's monitoring) sees it between those of the pull. Nothing waits for it, and one that
//! containerd does not take is lost: the log and the metric say the same.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use tranship_containerd::events::v1::PublishRequest;
use tranship_containerd::events::v1::events_client::EventsClient;
use tranship_containerd::images::v1::ImageUpdate;
use tranship_containerd::prost::Message;
use tranship_containerd::prost_types::Any;
use tranship_containerd::tonic::transport::Channel;
use tranship_containerd::{connect_lazily, in_namespace};

/// Where on the bus; containerd's own listeners look for `/images/`, and are not to take it for one of theirs.
const TOPIC: &str = "/tranship/image";
/// A type that listeners know: an image with labels. They drop events of types that they cannot read.
const TYPE: &str = "containerd.services.images.v1.ImageUpdate";
/// How long containerd is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was decided about an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decided<'a> {
    /// The namespace of containerd that asked first.
    pub(super) namespace: &'a str,
    pub(super) reference: &'a str,
    pub(super) is_lazy: bool,
    /// One word, as the metric has it.
    pub(super) reason: &'a str,
    /// The same as a sentence.
    pub(super) why: &'a str,
}

/// See the module's words.
#[derive(Debug)]
pub(super) struct Events {
    channel: Option<Channel>,
}

impl Events {
    /// To the containerd at a socket, which need not be there yet. Must be called within a runtime.
    pub(super) fn to(containerd: &Path) -> Self {
        let channel = connect_lazily(containerd).inspect_err(|error| {
            tracing::warn!(
                containerd = %containerd.display(),
                error = error as &dyn Error,
                "containerd is told of no image"
            );
        });
        Self {
            channel: channel.ok(),
        }
    }

    /// Tells it, in the background.
    pub(super) fn tell(&self, decided: Decided<'_>) {
        let Some(channel) = self.channel.clone() else {
            return;
        };
        let Ok(call) = in_namespace(decided.namespace, event(decided)) else {
            return;
        };
        let reference = decided.reference.to_owned();
        tokio::spawn(async move {
            let mut client = EventsClient::new(channel);
            match tokio::time::timeout(PATIENCE, client.publish(call)).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => {
                    tracing::debug!(reference, %status, "containerd did not take an event");
                }
                Err(_) => tracing::debug!(reference, "containerd does not answer to an event"),
            }
        });
    }
}

fn event(decided: Decided<'_>) -> PublishRequest {
    let labels = [
        ("tranship/lazy", decided.is_lazy.to_string()),
        ("tranship/reason", decided.reason.to_owned()),
        ("tranship/why", decided.why.to_owned()),
    ];
    let image = ImageUpdate {
        name: decided.reference.to_owned(),
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
    };
    PublishRequest {
        topic: TOPIC.to_owned(),
        event: Some(Any {
            type_url: TYPE.to_owned(),
            value: image.encode_to_vec(),
        }),
    }
}
