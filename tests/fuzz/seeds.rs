//! Writes the first inputs of each target: small ones of every form, without the checksums that would keep changed bytes
//! from the decoders behind them. `tests/fuzz/run` adds what it finds to a copy, never to these.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tranship_format::convert::{ConvertOptions, Converter};
use tranship_format::wire::{
    BlobInfo, Certificate, ChunkId, Class, ErrorCode, Fault, Goodput, Grant, Hello, HelloAck,
    ImageSource, Join, JoinProof, LeaseState, Member, Open, PeerId, PeerMessage, ProofState, Prove,
    PullProof, Role, Route, SignedProof, StripeRoute, StripeRun, StripeState, TrackerReply,
    TrackerRequest, Versions, Want,
};
use tranship_format::{
    ChunkHash, ChunkTable, ChunkTableBuilder, Codec, Digest, Disk, HashAlgorithm, Layer,
    LayerOptions, LayerWriter, ReadAt, Sector,
};

#[path = "seeds/sockets.rs"]
mod sockets;

/// Where the checksum's flag stands in the headers of ZFile and of the layer file, counted from the header's beginning.
const ZFILE_FLAGS: usize = 32;

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let path: PathBuf = corpus.join(target).join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a place for seeds");
        fs::write(path, bytes).expect("a seed");
    };
    layers(&put);
    tables(&put);
    tars(&put);
    peers(&put);
    trackers(&put);
    sockets::clients(&put);
    sockets::guests(&put);
    sockets::kernels(&put);
}

/// A small blob with data, zeros, a cut and an overwrite.
fn blob(codec: Codec) -> Vec<u8> {
    let options = LayerOptions {
        block_len: 4096,
        codec,
        chunk_len: 4096,
        ..LayerOptions::default()
    };
    let mut writer = LayerWriter::new(Cursor::new(Vec::new()), options).expect("a writer");
    writer
        .write(Sector(0), &b"tranship".repeat(128))
        .expect("data");
    writer.cut().expect("a cut");
    writer
        .write(Sector(16), &[[1; 512], [2; 512]].concat())
        .expect("data");
    writer.zero(Sector(64), 20_000).expect("zeros");
    writer.write(Sector(1), &[7; 512]).expect("data");
    let (out, _) = writer.finish(16 << 20).expect("a blob");
    out.into_inner()
}

/// The layer file without compression.
fn plain(blob: &[u8]) -> Vec<u8> {
    let layer = Layer::open(blob).expect("our own layer");
    let blocks = layer.blocks().expect("compressed blocks");
    let mut file = Vec::new();
    for block in 0..blocks.count() {
        let stored = blocks.stored(block..block + 1);
        let mut bytes = vec![0; usize::try_from(stored.len()).expect("a short block")];
        layer
            .payload()
            .read_exact_at(stored.start, &mut bytes)
            .expect("a block");
        let (block, _crc) = bytes.split_at(bytes.len() - 4);
        file.extend(zstd::bulk::decompress(block, 4096).expect("a zstd frame"));
    }
    file
}

fn layers(put: &impl Fn(&str, &str, &[u8])) {
    let zstd = blob(Codec::Zstd);
    put("envelope", "ours", &zstd[..1536]);
    put("envelope", "ustar", &zstd[1024..1536]);
    let file = plain(&zstd);
    put("lsmt", "plain-layer-file", &file);
    for (name, mut blob) in [("zstd", zstd), ("lz4", blob(Codec::Lz4))] {
        let payload = Layer::open(blob.as_slice())
            .expect("our own layer")
            .payload()
            .range();
        let [start, end] =
            [payload.start, payload.end].map(|at| usize::try_from(at).expect("small"));
        put("zfile", &format!("{name}-whole"), &blob);
        for header in [start, end - 512] {
            blob[header + ZFILE_FLAGS] &= !0x10;
        }
        put("zfile", &format!("{name}-unchecked"), &blob);
        put("zfile", &format!("{name}-bare"), &blob[start..end]);
    }
}

fn tables(put: &impl Fn(&str, &str, &[u8])) {
    for (name, algorithm) in [
        ("blake3", HashAlgorithm::Blake3),
        ("sha256", HashAlgorithm::Sha256),
    ] {
        let mut builder = ChunkTableBuilder::new(algorithm);
        for chunk in [b"abc".as_slice(), &[0; 1000], b"the last"] {
            builder.update(chunk);
            builder.cut();
        }
        put("chunk_table", name, &builder.finish().encode());
    }
    let digest = Digest::of(b"abc");
    put(
        "annotations",
        "ours",
        format!("{digest}\n90000\nerofs\n0.1.0\n1\n{digest}\n80000\n104").as_bytes(),
    );
    put(
        "annotations",
        "overlaybd",
        format!("{digest}\n90000\next4\n0.1.0").as_bytes(),
    );
}

/// One entry of a tar; its checksum is the target's to mend.
fn entry(out: &mut Vec<u8>, code: u8, path: &[u8], data: &[u8], link: &[u8]) {
    let start = out.len();
    out.resize(start + 512, 0);
    let mut put = |at: usize, bytes: &[u8]| {
        out[start + at..start + at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, path);
    put(100, b"0000755\x000000001\x000000002\x00");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"14524572000\x00");
    put(156, &[code]);
    put(157, link);
    put(257, b"ustar\x0000");
    put(329, b"0000001\x000000002\x00");
    out.extend(data);
    out.resize(out.len().next_multiple_of(512), 0);
    tranship_fuzz::mend_tar(&mut out[start..start + 512]);
}

fn record(text: &str) -> String {
    let rest = text.len() + 2;
    let len = (rest + 1..).find(|len| rest + len.to_string().len() == *len);
    format!("{} {text}\n", len.expect("a length"))
}

fn tars(put: &impl Fn(&str, &str, &[u8])) {
    let mut base = Vec::new();
    entry(&mut base, b'5', b"dir/", b"", b"");
    entry(&mut base, b'0', b"dir/file", b"hello", b"");
    entry(&mut base, b'2', b"link", b"", b"dir");
    base.resize(base.len() + 1024, 0);
    put("layer_tar", "base.tar", &base);

    let mut kinds = Vec::new();
    entry(&mut kinds, b'1', b"other", b"", b"dir/file");
    entry(&mut kinds, b'0', b"dir/.wh.file", b"", b"");
    entry(&mut kinds, b'0', b"link/.wh..wh..opq", b"", b"");
    entry(&mut kinds, b'3', b"char", b"", b"");
    entry(&mut kinds, b'6', b"fifo", b"", b"");
    entry(&mut kinds, b'L', b"././@LongLink", b"a/long/name\0", b"");
    entry(&mut kinds, b'0', b"short", &[7; 5000], b"");
    kinds.resize(kinds.len() + 1024, 0);
    put("layer_tar", "kinds", &kinds);

    let mut pax = Vec::new();
    let records = [
        "path=pax/name",
        "mtime=-1.5",
        "uid=70000",
        "SCHILY.xattr.user.a=b",
        "size=600",
    ];
    let records = records.map(record).concat();
    entry(&mut pax, b'x', b"pax", records.as_bytes(), b"");
    entry(&mut pax, b'0', b"x", &[1; 600], b"");
    let sparse = [
        "GNU.sparse.major=1",
        "GNU.sparse.minor=0",
        "GNU.sparse.name=holes",
        "GNU.sparse.realsize=100000",
    ];
    entry(
        &mut pax,
        b'x',
        b"pax",
        sparse.map(record).concat().as_bytes(),
        b"",
    );
    let mut data = b"1\n4096\n100\n".to_vec();
    data.resize(512, 0);
    data.extend([9; 100]);
    entry(&mut pax, b'0', b"x", &data, b"");
    pax.resize(pax.len() + 1024, 0);
    put("layer_tar", "pax", &pax);

    let mut converter = Converter::new(ConvertOptions::default());
    let mut blobs: Vec<Arc<dyn ReadAt>> = Vec::new();
    for (name, tar) in [("one-layer", base), ("two-layers", kinds)] {
        let blob = converter.layer(tar.as_slice(), Cursor::new(Vec::new()));
        blobs.push(Arc::new(blob.expect("a layer").0.into_inner()));
        let disk = Disk::open(blobs.clone(), 0).expect("layers of our own");
        let mut device = vec![0; usize::try_from(disk.len()).expect("a small device")];
        disk.read_at(0, &mut device).expect("the device");
        device[1024 + 8] &= !1;
        tranship_fuzz::read_filesystem(device.as_slice()).expect("a filesystem of our own");
        put("erofs", name, &device);
    }
}

fn member() -> Member {
    Member {
        peer: PeerId::from_bytes(&[1, 2, 3]).expect("a peer"),
        addresses: vec!["/ip4/10.0.0.1/tcp/4001".into()],
        zone: "a".into(),
        rack: "b".into(),
        role: Role::Agent,
    }
}

fn certificate() -> Certificate {
    Certificate {
        member: member(),
        issued_at: 1,
        expires_at: 2,
        tracker: member().peer,
        signature: vec![7; 64],
    }
}

fn grant() -> Grant {
    Grant {
        peer: member().peer,
        registry: "registry.example".into(),
        manifest: Digest::of(b"manifest"),
        blobs: vec![Digest::of(b"blob")],
        issued_at: 1,
        expires_at: 2,
        tracker: member().peer,
        signature: vec![7; 64],
    }
}

fn chunk() -> ChunkId {
    ChunkId {
        blob: Digest::of(b"blob"),
        number: 7,
    }
}

fn peers(put: &impl Fn(&str, &str, &[u8])) {
    let messages = [
        PeerMessage::Hello(Box::new(Hello {
            versions: Versions::OURS,
            certificate: certificate(),
            boot_id: [3; 16],
        })),
        PeerMessage::HelloAck(Box::new(HelloAck {
            version: 1,
            certificate: certificate(),
            boot_id: [3; 16],
        })),
        PeerMessage::Want {
            request: 1,
            want: Want {
                class: Class::Demand,
                chunk: chunk(),
                hash: Some(ChunkHash::from_bytes([5; 32])),
            },
        },
        PeerMessage::Data {
            request: 1,
            bytes: vec![1; 20].into(),
        },
        PeerMessage::Wait {
            request: 1,
            idle_ms: 5,
            hops: 1,
        },
        PeerMessage::Busy {
            request: 1,
            retry_ms: 9,
            alternatives: vec![member()],
        },
        PeerMessage::Miss { request: 1 },
        PeerMessage::Cancel { request: 1 },
        PeerMessage::GoAway,
        PeerMessage::Grant(Box::new(grant())),
    ];
    let mut all = vec![100];
    for (number, message) in messages.iter().enumerate() {
        let mut one = vec![5];
        message.encode(&mut one);
        message.encode(&mut all);
        put("wire_peer", &format!("message-{number}"), &one);
        put_message(put, one.get(1..).expect("a frame"));
    }
    put("wire_peer", "all", &all);
    let mut alone = vec![0];
    certificate().encode(&mut alone);
    put("wire_peer", "certificate", &alone);
}

/// A frame as `wire_message` takes it: each message has a folder, named by its type.
fn put_message(put: &impl Fn(&str, &str, &[u8]), frame: &[u8]) {
    let (header, body) = frame.split_at(12);
    let input = [&header[8..9], body].concat();
    put("wire_message", &format!("{:02x}/seed", header[4]), &input);
}

fn trackers(put: &impl Fn(&str, &str, &[u8])) {
    let digest = Digest::of(b"blob");
    let requests = [
        TrackerRequest::Join(Box::new(Join {
            versions: Versions::OURS,
            proof: JoinProof::Token(b"token".to_vec()),
            member: member(),
            boot_id: [3; 16],
        })),
        TrackerRequest::Open(Box::new(Open {
            image: ImageSource {
                registry: "registry.example".into(),
                repository: "image".into(),
                manifest: digest,
            },
            grant: Some(grant()),
            proof: PullProof::Token(b"token".to_vec()),
            blobs: vec![BlobInfo {
                digest,
                len: 1 << 20,
                chunk_count: 4,
            }],
        })),
        TrackerRequest::Lookup {
            blob: digest,
            stripes: vec![0, 1, 2],
        },
        TrackerRequest::Progress {
            lease: 1,
            done_len: 2,
            state: LeaseState::Reading,
        },
        TrackerRequest::Announce {
            blob: digest,
            runs: vec![StripeRun {
                state: StripeState::Complete,
                count: 3,
            }],
        },
        TrackerRequest::Heartbeat {
            load_permille: 3,
            epoch: 4,
            goodputs: vec![Goodput {
                peer: member().peer,
                bytes_per_second: 5,
            }],
        },
        TrackerRequest::Report {
            fault: Fault::WrongChunk,
            peer: member().peer,
            chunk: chunk(),
        },
        TrackerRequest::Leave,
        TrackerRequest::Prove(Box::new(Prove {
            image: ImageSource {
                registry: "registry.example".into(),
                repository: "image".into(),
                manifest: digest,
            },
            grant: Some(grant()),
            proof: PullProof::Token(b"bearer".to_vec()),
            blob: digest,
            len: 4,
        })),
    ];
    for (number, request) in requests.iter().enumerate() {
        let mut bytes = Vec::new();
        request.encode(1, &mut bytes);
        put_message(put, &bytes);
        put("wire_tracker", &format!("request-{number}"), &bytes);
    }
    let replies = [
        TrackerReply::Joined {
            version: 1,
            certificate: Box::new(certificate()),
            epoch: 1,
            heartbeat_ms: 1000,
            seed: Some(Box::new(member())),
        },
        TrackerReply::Opened {
            grant: Some(Box::new(grant())),
            members: vec![member()],
        },
        TrackerReply::Routes {
            blob: digest,
            routes: vec![StripeRoute {
                stripe: 1,
                route: Route::Parents(vec![member().into()]),
            }],
        },
        TrackerReply::ProgressAck {
            lease: 1,
            expires_ms: Some(3),
        },
        TrackerReply::HeartbeatAck {
            epoch: 1,
            bans: vec![member().peer],
        },
        TrackerReply::Ack,
        TrackerReply::Error {
            code: ErrorCode::NotAdmitted,
            text: "no".into(),
        },
        TrackerReply::Proof(ProofState::Ready(Box::new(SignedProof {
            blob: digest,
            table: ChunkTable::proof(b"blob".as_slice())
                .expect("memory")
                .encode()
                .into(),
            tracker: member().peer,
            signature: vec![6; 64],
        }))),
        TrackerReply::Proof(ProofState::Making {
            done_len: 1,
            retry_ms: 2,
        }),
        TrackerReply::Farewell,
    ];
    for (number, reply) in replies.iter().enumerate() {
        let mut bytes = Vec::new();
        let request = u32::from(!matches!(reply, TrackerReply::Farewell));
        reply.encode(request, &mut bytes);
        put_message(put, &bytes);
        put("wire_tracker", &format!("reply-{number}"), &bytes);
    }
}
