//! What a container's reader sees when parts of ours die, stop, are upgraded and come back, or lose what they stand on: a pause, and
//! nothing else. Each fault happens to each front end, under readers that check every byte.
//!
//! Once in an ordinary run. With `TRANSHIP_FAULT_ROUNDS=100` processes die a hundred times each and all else happens ten times; what came of it is
//! printed as a table. `ONLY_FAULT=deleted` has only those happen whose names say that.

pub(crate) mod damage;
mod happen;
mod image;
pub(crate) mod in_guest;
pub(crate) mod matrix;
mod memory_limit;
mod readers;
mod scene;

pub(crate) use happen::Chance;
pub(crate) use image::{FILE_COUNT, content, convert, convert_layers, device_bytes, name};
pub(crate) use readers::Readers;
pub(crate) use scene::Scene;

#[test]
fn readers_notice_no_fault() {
    matrix::run(&["fuse-loop", "erofs-file", "nbd"]);
}

#[test]
fn readers_notice_no_death_of_an_agent_that_answers_by_itself() {
    for front_end in ["fuse-loop", "erofs-file"] {
        let mut scene = Scene::set(front_end, "[device]\nprocesses = false\n");
        let readers = scene.readers();
        readers.wait_for_progress();
        for _ in 0..2 {
            scene.agent().restart();
            readers.wait_for_progress();
            scene.kill_keeper();
            readers.wait_for_progress();
        }
        let longest = readers.finish();
        println!("{front_end}: 2 agents and 2 keepers killed, 0 errors, longest read {longest:?}");
        scene.end();
    }
}
