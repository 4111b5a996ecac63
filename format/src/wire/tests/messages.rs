//! Any message that can be said, for tests that hold for all of them.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::*;
use crate::ChunkHash;

pub(super) fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

pub(super) fn peer() -> impl Strategy<Value = PeerId> {
    vec(any::<u8>(), 1..=MAX_PEER_ID_LEN).prop_map(|id| PeerId::from_bytes(&id).unwrap())
}

pub(super) fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Agent), Just(Role::Seed)]
}

pub(super) fn member() -> impl Strategy<Value = Member> {
    let addresses = vec("[ -~]{0,40}", 0..=MAX_ADDRESSES);
    (peer(), addresses, "\\PC{0,12}", "[a-z0-9-]{0,12}", role()).prop_map(
        |(peer, addresses, zone, rack, role)| Member {
            peer,
            addresses,
            zone,
            rack,
            role,
        },
    )
}

pub(super) fn certificate() -> impl Strategy<Value = Certificate> {
    let signature = vec(any::<u8>(), 0..=MAX_SIGNATURE_LEN);
    (member(), any::<u64>(), any::<u64>(), peer(), signature).prop_map(
        |(member, issued_at, expires_at, tracker, signature)| Certificate {
            member,
            issued_at,
            expires_at,
            tracker,
            signature,
        },
    )
}

pub(super) fn grant() -> impl Strategy<Value = Grant> {
    let signature = vec(any::<u8>(), 0..=MAX_SIGNATURE_LEN);
    let what = ("[a-z.:0-9]{0,40}", digest(), vec(digest(), 0..8));
    let when = (any::<u64>(), any::<u64>());
    (peer(), what, when, peer(), signature).prop_map(
        |(peer, (registry, manifest, blobs), (issued_at, expires_at), tracker, signature)| Grant {
            peer,
            registry,
            manifest,
            blobs,
            issued_at,
            expires_at,
            tracker,
            signature,
        },
    )
}

pub(super) fn versions() -> impl Strategy<Value = Versions> {
    (any::<u16>(), any::<u16>()).prop_map(|(min, max)| Versions { min, max })
}

pub(super) fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Demand),
        Just(Class::ReadAhead),
        Just(Class::Prefetch),
        Just(Class::Background),
    ]
}

pub(super) fn chunk() -> impl Strategy<Value = ChunkId> {
    (digest(), any::<u32>()).prop_map(|(blob, number)| ChunkId { blob, number })
}

pub(super) fn want() -> impl Strategy<Value = Want> {
    let hash = option::of(any::<[u8; 32]>().prop_map(ChunkHash::from_bytes));
    (class(), chunk(), hash).prop_map(|(class, chunk, hash)| Want { class, chunk, hash })
}

pub(super) fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let request = 1..=u32::MAX;
    let hello = (versions(), certificate(), any::<[u8; 16]>());
    let ack = (any::<u16>(), certificate(), any::<[u8; 16]>());
    let busy = (
        request.clone(),
        any::<u32>(),
        vec(member(), 0..=MAX_PARENTS),
    );
    let data = (request.clone(), vec(any::<u8>(), 0..2_000));
    prop_oneof![
        hello.prop_map(|(versions, certificate, boot_id)| {
            PeerMessage::Hello(Box::new(Hello {
                versions,
                certificate,
                boot_id,
            }))
        }),
        ack.prop_map(|(version, certificate, boot_id)| {
            PeerMessage::HelloAck(Box::new(HelloAck {
                version,
                certificate,
                boot_id,
            }))
        }),
        (request.clone(), want()).prop_map(|(request, want)| PeerMessage::Want { request, want }),
        data.prop_map(|(request, bytes)| PeerMessage::Data {
            request,
            bytes: bytes.into()
        }),
        (request.clone(), any::<u32>(), any::<u8>()).prop_map(|(request, idle_ms, hops)| {
            PeerMessage::Wait {
                request,
                idle_ms,
                hops,
            }
        }),
        busy.prop_map(|(request, retry_ms, alternatives)| PeerMessage::Busy {
            request,
            retry_ms,
            alternatives
        }),
        request
            .clone()
            .prop_map(|request| PeerMessage::Miss { request }),
        request.prop_map(|request| PeerMessage::Cancel { request }),
        Just(PeerMessage::GoAway),
        grant().prop_map(|grant| PeerMessage::Grant(Box::new(grant))),
    ]
}

pub(super) fn image() -> impl Strategy<Value = ImageSource> {
    ("[a-z.:0-9]{0,40}", "[a-z/]{0,40}", digest()).prop_map(|(registry, repository, manifest)| {
        ImageSource {
            registry,
            repository,
            manifest,
        }
    })
}

pub(super) fn blob_info() -> impl Strategy<Value = BlobInfo> {
    (digest(), any::<u64>(), any::<u32>()).prop_map(|(digest, len, chunk_count)| BlobInfo {
        digest,
        len,
        chunk_count,
    })
}

pub(super) fn run() -> impl Strategy<Value = StripeRun> {
    let state = prop_oneof![
        Just(StripeState::None),
        Just(StripeState::InFlight),
        Just(StripeState::Complete),
    ];
    (state, 1..=u32::MAX).prop_map(|(state, count)| StripeRun { state, count })
}

pub(super) fn pull_proof() -> impl Strategy<Value = PullProof> {
    let secret = vec(any::<u8>(), 0..200);
    prop_oneof![
        Just(PullProof::None),
        secret.clone().prop_map(PullProof::Token),
        secret.prop_map(PullProof::Password),
    ]
}

pub(super) fn request() -> impl Strategy<Value = TrackerRequest> {
    let token = vec(any::<u8>(), 0..=MAX_TOKEN_LEN).prop_map(JoinProof::Token);
    let proof = prop_oneof![
        token,
        certificate().prop_map(|certificate| JoinProof::Certificate(Box::new(certificate)))
    ];
    let lease_state = prop_oneof![
        Just(LeaseState::Reading),
        Just(LeaseState::Resting),
        Just(LeaseState::Released),
        Just(LeaseState::Queued),
    ];
    let fault = prop_oneof![
        Just(Fault::WrongChunk),
        Just(Fault::Slow),
        Just(Fault::Dead)
    ];
    let goodput = (peer(), any::<u64>()).prop_map(|(peer, bytes_per_second)| Goodput {
        peer,
        bytes_per_second,
    });
    prop_oneof![
        (versions(), proof, member(), any::<[u8; 16]>()).prop_map(
            |(versions, proof, member, boot_id)| {
                TrackerRequest::Join(Box::new(Join {
                    versions,
                    proof,
                    member,
                    boot_id,
                }))
            }
        ),
        (
            image(),
            option::of(grant()),
            pull_proof(),
            vec(blob_info(), 0..20)
        )
            .prop_map(|(image, grant, proof, blobs)| {
                TrackerRequest::Open(Box::new(Open {
                    image,
                    grant,
                    proof,
                    blobs,
                }))
            }),
        (digest(), vec(any::<u32>(), 0..=MAX_STRIPES))
            .prop_map(|(blob, stripes)| TrackerRequest::Lookup { blob, stripes }),
        (any::<u64>(), any::<u64>(), lease_state).prop_map(|(lease, done_len, state)| {
            TrackerRequest::Progress {
                lease,
                done_len,
                state,
            }
        }),
        (digest(), vec(run(), 0..50))
            .prop_map(|(blob, runs)| TrackerRequest::Announce { blob, runs }),
        (any::<u16>(), any::<u64>(), vec(goodput, 0..=MAX_GOODPUTS)).prop_map(
            |(load_permille, epoch, goodputs)| TrackerRequest::Heartbeat {
                load_permille,
                epoch,
                goodputs
            }
        ),
        (fault, peer(), chunk()).prop_map(|(fault, peer, chunk)| TrackerRequest::Report {
            fault,
            peer,
            chunk
        }),
        Just(TrackerRequest::Leave),
        (
            image(),
            option::of(grant()),
            pull_proof(),
            digest(),
            any::<u64>()
        )
            .prop_map(|(image, grant, proof, blob, len)| {
                TrackerRequest::Prove(Box::new(Prove {
                    image,
                    grant,
                    proof,
                    blob,
                    len,
                }))
            }),
    ]
}

pub(super) fn signed_proof() -> impl Strategy<Value = SignedProof> {
    let signature = vec(any::<u8>(), 0..=MAX_SIGNATURE_LEN);
    (digest(), vec(any::<u8>(), 0..2_000), peer(), signature).prop_map(
        |(blob, table, tracker, signature)| SignedProof {
            blob,
            table: table.into(),
            tracker,
            signature,
        },
    )
}

pub(super) fn routes() -> impl Strategy<Value = Vec<StripeRoute>> {
    // A few members, so that most are told of more than once.
    vec(member().prop_map(Arc::new), 1..5).prop_flat_map(|members| {
        let parents = vec(prop::sample::select(members), 0..=MAX_PARENTS);
        let route = prop_oneof![
            (any::<u64>(), any::<u32>())
                .prop_map(|(lease, expires_ms)| Route::Origin { lease, expires_ms }),
            parents.prop_map(Route::Parents),
            any::<u32>().prop_map(|ms| Route::Wait { ms }),
        ];
        let route = (any::<u32>(), route);
        vec(
            route.prop_map(|(stripe, route)| StripeRoute { stripe, route }),
            0..=MAX_STRIPES,
        )
    })
}

pub(super) fn reply() -> impl Strategy<Value = TrackerReply> {
    let seed = option::of(member().prop_map(Box::new));
    let code = prop_oneof![
        Just(ErrorCode::Malformed),
        Just(ErrorCode::UnsupportedVersion),
        Just(ErrorCode::NotAMember),
        Just(ErrorCode::NotAdmitted),
        Just(ErrorCode::Banned),
        Just(ErrorCode::UnknownBlob),
        Just(ErrorCode::Overloaded),
        Just(ErrorCode::Stopping),
    ];
    prop_oneof![
        (
            any::<u16>(),
            certificate(),
            any::<u64>(),
            any::<u32>(),
            seed
        )
            .prop_map(|(version, certificate, epoch, heartbeat_ms, seed)| {
                TrackerReply::Joined {
                    version,
                    certificate: Box::new(certificate),
                    epoch,
                    heartbeat_ms,
                    seed,
                }
            }),
        (
            option::of(grant().prop_map(Box::new)),
            vec(member().prop_map(Arc::new), 0..10)
        )
            .prop_map(|(grant, members)| TrackerReply::Opened { grant, members }),
        (digest(), routes()).prop_map(|(blob, routes)| TrackerReply::Routes { blob, routes }),
        (any::<u64>(), option::of(any::<u32>()))
            .prop_map(|(lease, expires_ms)| TrackerReply::ProgressAck { lease, expires_ms }),
        (any::<u64>(), vec(peer(), 0..20))
            .prop_map(|(epoch, bans)| TrackerReply::HeartbeatAck { epoch, bans }),
        Just(TrackerReply::Ack),
        signed_proof().prop_map(|proof| TrackerReply::Proof(ProofState::Ready(Box::new(proof)))),
        (any::<u64>(), any::<u32>()).prop_map(|(done_len, retry_ms)| {
            TrackerReply::Proof(ProofState::Making { done_len, retry_ms })
        }),
        (code, "\\PC{0,60}").prop_map(|(code, text)| TrackerReply::Error { code, text }),
    ]
}
