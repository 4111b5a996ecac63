//! What a node asks of an image, and by what right: OPEN and PROVE.
//!
//! Both show the grant that the node has, and what may bring it one. So the tracker judges both in the same way, and a
//! proof is as well kept from those who may not pull as the blob itself.

use super::{BlobInfo, ImageSource, PullProof};
use crate::Digest;
use crate::wire::fields::{Fields, put_digest, put_list, put_u64};
use crate::wire::{Grant, MAX_BLOBS, WireError};

/// Asks for the right to an image's blobs, and for who else has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Where the image is.
    pub image: ImageSource,
    /// The grant that the sender has, if it has one.
    pub grant: Option<Grant>,
    /// Why it should be given one.
    pub proof: PullProof,
    /// The image's blobs that it uses, at most 256.
    pub blobs: Vec<BlobInfo>,
}

impl Open {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        self.image.put(out);
        put_right(out, self.grant.as_ref(), &self.proof);
        put_list(out, &self.blobs, MAX_BLOBS, |out, blob| blob.put(out));
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        let image = ImageSource::read(fields)?;
        let (grant, proof) = read_right(fields)?;
        Ok(Self {
            image,
            grant,
            proof,
            blobs: fields.list(MAX_BLOBS, "blobs", BlobInfo::read)?,
        })
    }
}

/// Asks for the proof of a blob that has no chunk table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prove {
    /// Where the blob is.
    pub image: ImageSource,
    /// The grant that the sender has for the image, if it has one.
    pub grant: Option<Grant>,
    /// Why it should be given one.
    pub proof: PullProof,
    /// The blob, a layer of the image.
    pub blob: Digest,
    /// Its bytes.
    pub len: u64,
}

impl Prove {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        self.image.put(out);
        put_right(out, self.grant.as_ref(), &self.proof);
        put_digest(out, &self.blob);
        put_u64(out, self.len);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        let image = ImageSource::read(fields)?;
        let (grant, proof) = read_right(fields)?;
        Ok(Self {
            image,
            grant,
            proof,
            blob: fields.digest("blob")?,
            len: fields.u64("blob length")?,
        })
    }
}

fn put_right(out: &mut Vec<u8>, grant: Option<&Grant>, proof: &PullProof) {
    out.push(u8::from(grant.is_some()));
    if let Some(grant) = grant {
        grant.encode(out);
    }
    proof.put(out);
}

fn read_right(fields: &mut Fields<'_>) -> Result<(Option<Grant>, PullProof), WireError> {
    let grant = if fields.flag("grant flag")? {
        Some(Grant::read(fields)?)
    } else {
        None
    };
    Ok((grant, PullProof::read(fields)?))
}
