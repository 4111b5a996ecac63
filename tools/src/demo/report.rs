//! What the demo found: a table that tells it to a person, one JSON object that tells it to a program.

use comfy_table::Cell;
use serde::Serialize;
use serde_json::{Value, json};

use super::compare::Compared;
use super::phase::Phase;
use super::scene::Scene;
use super::start::Rights;
use crate::output::{self, number, size};
use tranship_simulate::Rate;

/// All numbers of a demo.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) scene: Scene,
    pub(crate) nodes: usize,
    pub(crate) link: Rate,
    pub(crate) registry_link: Rate,
    pub(crate) rights: Rights,
    pub(crate) full_pull: Phase,
    pub(crate) lazy_registry: Phase,
    pub(crate) lazy_peers: Phase,
    pub(crate) files: Compared,
}

impl Report {
    /// One object; the names in it are kept, new ones may come.
    pub(crate) fn json(&self) -> Value {
        let bytes = |phase: &Phase| json!({"registry": phase.registry, "seed": phase.seed, "peers": phase.peers, "disk": phase.disk, "wire": phase.wire});
        json!({
            "image": {
                "description": self.scene.description,
                "command": self.scene.command,
                "source": self.scene.converted.source,
                "manifest": self.scene.converted.manifest,
                "source_bytes": self.scene.converted.source_size,
                "convert_seconds": self.scene.convert_seconds,
            },
            "nodes": self.nodes,
            "link": self.link,
            "registry_link": self.registry_link,
            "mounted": self.rights == Rights::Mount,
            "ready_seconds": {
                "full_pull": self.full_pull.last(),
                "lazy_registry": self.lazy_registry.last(),
                "lazy_peers": self.lazy_peers.last(),
            },
            "ready_seconds_by_node": {
                "full_pull": self.full_pull.ready,
                "lazy_registry": self.lazy_registry.ready,
                "lazy_peers": self.lazy_peers.ready,
            },
            "bytes": {
                "blob": self.scene.converted.size,
                "registry": self.lazy_peers.registry,
                "seed": self.lazy_peers.seed,
                "peers": self.lazy_peers.peers,
                "disk": self.lazy_peers.disk,
            },
            "bytes_by_phase": {
                "full_pull": bytes(&self.full_pull),
                "lazy_registry": bytes(&self.lazy_registry),
                "lazy_peers": bytes(&self.lazy_peers),
            },
            "chunks_refused": self.lazy_registry.refused + self.lazy_peers.refused,
            "files": FilesJson { compared: self.files.looked_at, wrong: self.files.wrong, examples: &self.files.examples },
        })
    }

    /// A table and what one should know about it.
    pub(crate) fn text(&self) -> String {
        let scene = &self.scene;
        let sizes = if scene.converted.source == scene.converted.manifest {
            format!("{} in its registry, as it is", size(scene.converted.size))
        } else {
            format!(
                "{} in its registry, {} when converted",
                size(scene.converted.source_size),
                size(scene.converted.size)
            )
        };
        let mut text = format!(
            "{} nodes start {} at once.\nThe image has {sizes}; every machine has a link of {} each way.\n",
            self.nodes, scene.description, self.link,
        );
        if self.registry_link != self.link {
            let other = self.registry_link;
            text = format!("{text}The registry's and the tracker's links have {other}.\n");
        }
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        text = format!(
            "{text}All machines share this one's {processors} processors, which unpacking feels most.\n"
        );
        text.push('\n');
        let mut table = output::table([
            "LAST NODE READY",
            "AFTER",
            "SPEED-UP",
            "FROM REGISTRY",
            "FROM SEED",
            "FROM PEERS",
            "OWN DISK",
        ]);
        for (name, phase, lazy) in [
            ("full pull and unpack", &self.full_pull, false),
            ("lazily from the registry", &self.lazy_registry, true),
            ("lazily with peers", &self.lazy_peers, true),
        ] {
            let lazily = |bytes: u64| number(if lazy { size(bytes) } else { "-".into() });
            table.add_row([
                Cell::new(name),
                number(format!("{:.2} s", phase.last())),
                number(format!(
                    "{:.1} x",
                    self.full_pull.last() / phase.last().max(0.001)
                )),
                number(size(phase.registry)),
                lazily(phase.seed),
                lazily(phase.peers),
                lazily(phase.disk),
            ]);
        }
        text.push_str(&output::text_of(&table));
        text.push('\n');
        text.push_str(&self.verdict());
        text
    }

    fn verdict(&self) -> String {
        let files = &self.files;
        let mut text = if files.wrong == 0 {
            format!(
                "Every file was right: {} compared with the unpacked original ({}), 0 wrong.\n",
                files.looked_at,
                size(files.bytes)
            )
        } else {
            format!(
                "WRONG: {} of {} files differ:\n  {}\n",
                files.wrong,
                files.looked_at,
                files.examples.join("\n  ")
            )
        };
        match self.rights {
            Rights::Mount => {
                let command = self.scene.command.join(" ");
                text = format!("{text}Ready means: `{command}` succeeded inside the image.\n");
            }
            Rights::ReadOnly => text.push_str(
                "Without the rights to mount, nothing was mounted and no command ran: ready means that every file the\n\
                 command needs was read, through the agents' NBD sockets. Run as root to see the rest.\n",
            ),
        }
        text
    }
}

#[derive(Serialize)]
struct FilesJson<'r> {
    compared: u64,
    wrong: u64,
    examples: &'r [String],
}
