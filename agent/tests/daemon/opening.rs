//! What opening an image costs at the registry: round trips, and bytes that are asked for twice.

use std::fs::File;
use std::os::unix::fs::FileExt;

use tranship_agent::control::FrontEndChoice;

use crate::daemon::Daemon;
use crate::image::Image;
use crate::registry::Registry;

/// Two for each of the two layers: one for each end of the blob.
const OPENING_REQUESTS: usize = 4;
const LAYER_COUNT: u32 = 2;

#[test]
fn layers_are_opened_side_by_side_in_two_round_trips() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let daemon = Daemon::start("");
    // Opened one after the other, they would wait in vain: no layer's first request is answered before the other's is here.
    registry.answer_together(LAYER_COUNT);
    // Nobody reads the device of an NBD server that has no client.
    let device = daemon.attach(&reference, FrontEndChoice::Nbd);
    let requests = registry.requests();
    assert_eq!(requests.len(), OPENING_REQUESTS, "{requests:?}");
    for layer in 0..2 {
        let of_layer = requests
            .iter()
            .filter(|(blob, _)| *blob == image.blob(layer));
        let starts: Vec<u64> = of_layer.map(|(_, start)| *start).collect();
        assert_eq!(starts.len(), 2, "{requests:?}");
        assert!(starts.contains(&0) && starts.iter().any(|start| *start > 1 << 20));
    }
    assert!(device.fill.present_len > 0, "the ends are in the store");
    assert!(
        device.fill.present_len < image.stored_len() / 8,
        "and little else"
    );
    let counted = daemon.must(daemon.client().status()).sources.registry_len;
    assert_eq!(counted, device.fill.present_len, "and counted");
}

#[test]
fn what_opening_brought_is_not_asked_for_again() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    let mut daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Nbd);
    daemon.must(daemon.client().detach(&device.id));
    daemon.stop();
    daemon.restart();
    let before = registry.requests().len();
    daemon.attach(&reference, FrontEndChoice::Nbd);
    assert_eq!(registry.requests().len(), before);
}

#[test]
fn a_wrong_byte_in_what_opening_brings_is_asked_for_again() {
    let (registry, image) = (Registry::start(), Image::new());
    let reference = image.push(&registry);
    for layer in 0..2 {
        // In the headers, and in the index or the block table.
        registry.flip(&image.blob(layer), 700, 1);
        registry.flip(&image.blob(layer), image.table_offset(layer) - 600, 1);
    }
    let daemon = Daemon::start("");
    let device = daemon.attach(&reference, FrontEndChoice::Auto);
    assert!(registry.requests().len() > OPENING_REQUESTS);
    let target = daemon.mount(&device, "mounted", false);
    image.assert_at(&target);
}

/// What happens to the stored bytes of a layer, whose chunk table begins at the offset.
type Damage = fn(&File, u64);

#[test]
fn what_the_store_has_lost_under_the_agent_is_fetched_again_for_an_opening() {
    let emptied: Damage = |file, _| file.set_len(0).unwrap();
    let zeroed: Damage = |file, _| {
        let len = file.metadata().unwrap().len();
        file.set_len(0).unwrap();
        file.set_len(len).unwrap();
    };
    let cut: Damage = |file, table| file.set_len(table - 600).unwrap();
    let flipped: Damage = |file, table| {
        // In the headers, and in the index or the block table.
        for at in [700, table - 600] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    };
    for (damage, what) in [
        (emptied, "emptied"),
        (zeroed, "zeroed"),
        (cut, "cut"),
        (flipped, "flipped"),
    ] {
        let (registry, image) = (Registry::start(), Image::new());
        let reference = image.push(&registry);
        let daemon = Daemon::start("");
        // All that an opening reads was hashed by then, and found right.
        let device = daemon.attach(&reference, FrontEndChoice::Nbd);
        daemon.must(daemon.client().detach(&device.id));
        for layer in 0..2 {
            let blob = image.blob(layer).replace("sha256:", "");
            let path = daemon.path(&format!("state/store/blobs/{blob}/data"));
            let file = File::options().read(true).write(true).open(path).unwrap();
            damage(&file, image.table_offset(layer));
        }
        let device = daemon.attach(&reference, FrontEndChoice::Auto);
        let target = daemon.mount(&device, "mounted", false);
        image.assert_at(&target);
        assert!(daemon.log().contains("a corrupt chunk"), "{what}");
    }
}
