//! The agent as the snapshotter sees it: which images can be shown, and showing them.
//!
//! containerd asks about each layer of a pull; the agent decides once an image, says so in one line of its log and one event, and counts it:
//! lazy or not, and why.

mod events;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tranship_format::Digest;
use tranship_snapshotter::{
    ImageError, Images as ImagesForSnapshots, LazyLayers, Snapshotter, Usage, Verdict, Wanted,
    async_trait,
};
use tranship_source::ImageReference;
use tranship_source::places;

use crate::config::Config;
use crate::control::{QuarantinedSnapshot, SnapshotImages, SnapshotStatus};
use crate::devices::{DeviceError, Devices, Holding};
use crate::image::{Images, LazyForm, NotLazy};
use crate::sentence::sentence;
use events::{Decided, Events};

/// Decisions that are remembered.
const MAX_DECISIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);
/// How long an image that cannot be shown, or of which containerd does not say what it chose, is not asked about again: about a pull.
const DECIDED_FOR: Duration = Duration::from_secs(30);

/// Which image, as containerd says it.
type Key = (String, Option<String>);

#[derive(Debug)]
struct Decision {
    form: Result<LazyForm, NotLazy>,
    at: Instant,
}

/// See the module's words.
#[derive(Debug)]
pub(crate) struct LazyImages {
    images: Arc<Images>,
    devices: Arc<Devices>,
    require_lazy: Vec<String>,
    trust_referrers: Vec<String>,
    decisions: Mutex<LruCache<Key, Arc<OnceCell<Decision>>>>,
    /// Images by whether they were shown, and why.
    decided: Mutex<BTreeMap<(bool, &'static str), u64>>,
    events: Events,
}

impl LazyImages {
    /// Must be called within a runtime.
    pub(crate) fn new(images: Arc<Images>, devices: Arc<Devices>, config: &Config) -> Self {
        let settings = &config.snapshotter;
        Self {
            images,
            devices,
            require_lazy: settings.require_lazy.clone(),
            trust_referrers: settings.trust_referrers.clone(),
            decisions: Mutex::new(LruCache::new(MAX_DECISIONS)),
            decided: Mutex::default(),
            events: Events::to(&config.image_service.containerd),
        }
    }

    /// What there is to say of the snapshotter.
    pub(crate) fn status(&self, snapshotter: &Snapshotter) -> SnapshotStatus {
        let decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let images = decided
            .iter()
            .map(|((lazy, reason), count)| SnapshotImages {
                lazy: *lazy,
                reason: (*reason).to_owned(),
                count: *count,
            });
        let quarantined = snapshotter.quarantined().into_iter();
        SnapshotStatus {
            images: images.collect(),
            quarantined: quarantined
                .map(|(name, why)| QuarantinedSnapshot { name, why })
                .collect(),
        }
    }

    fn cell(&self, key: &Key) -> Arc<OnceCell<Decision>> {
        let mut decisions = self
            .decisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let cell = Arc::clone(decisions.get_or_insert(key.clone(), Arc::default));
        let is_old = cell.get().is_some_and(|decision| {
            let is_for_ever = decision.form.is_ok() && key.1.is_some();
            !is_for_ever && decision.at.elapsed() > DECIDED_FOR
        });
        if !is_old {
            return cell;
        }
        let fresh = Arc::default();
        decisions.put(key.clone(), Arc::clone(&fresh));
        fresh
    }

    async fn decide(&self, wanted: &Wanted) -> Decision {
        let began = Instant::now();
        let manifest = wanted.manifest.as_ref();
        let manifest = manifest.and_then(|digest| digest.parse::<Digest>().ok());
        let with_referrers = is_in(&self.trust_referrers, &wanted.reference);
        let reference = &wanted.reference;
        let form = self
            .images
            .lazy_form(reference, manifest, with_referrers)
            .await;
        let took = began.elapsed();
        let (is_lazy, reason, why) = match &form {
            Ok(form) => {
                tracing::info!(reference, manifest = %form.manifest, why = form.how, ?took, "an image is shown lazily");
                (true, form.how, form.how.to_owned())
            }
            Err(why) => {
                tracing::info!(reference, %why, ?took, "an image is not lazy");
                (false, why.word(), why.to_string())
            }
        };
        self.events.tell(Decided {
            namespace: &wanted.namespace,
            reference,
            is_lazy,
            reason,
            why: &why,
        });
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let count = decided.entry((is_lazy, reason)).or_default();
        *count = count.saturating_add(1);
        Decision {
            form,
            at: Instant::now(),
        }
    }

    fn unpack(&self, wanted: &Wanted, why: &NotLazy) -> Verdict {
        if is_in(&self.require_lazy, &wanted.reference) {
            return Verdict::Refused {
                why: why.to_string(),
            };
        }
        Verdict::Unpack
    }
}

/// Whether the image is in one of the places.
fn is_in(places: &[String], reference: &str) -> bool {
    match reference.parse() {
        Ok(ImageReference::Registry(reference)) => places::cover(places, &reference.repo),
        _ => false,
    }
}

#[async_trait]
impl ImagesForSnapshots for LazyImages {
    async fn find(&self, wanted: &Wanted) -> Verdict {
        let cell = self.cell(&(wanted.reference.clone(), wanted.manifest.clone()));
        let decision = cell.get_or_init(|| self.decide(wanted)).await;
        let form = match &decision.form {
            Ok(form) => form,
            Err(why) => return self.unpack(wanted, why),
        };
        let position = usize::try_from(wanted.position).unwrap_or(usize::MAX);
        let is_this = match (form.layers.get(position), &wanted.layer) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(layer), Some(asked)) => layer.to_string() == *asked,
        };
        if !is_this {
            tracing::warn!(reference = wanted.reference, position, layer = ?wanted.layer, "a layer is not one of the image that it is said to be of; it is unpacked");
            return self.unpack(wanted, &NotLazy::OtherImage);
        }
        Verdict::Lazy(LazyLayers {
            reference: wanted.reference.clone(),
            manifest: form.manifest.to_string(),
            layer_count: wanted.position.saturating_add(1).min(form.shown),
        })
    }

    async fn attach(&self, layers: &LazyLayers, target: &Path) -> Result<(), ImageError> {
        let holding = Holding {
            reference: layers.reference.clone(),
            manifest: layers.manifest.parse()?,
            layer_count: layers.layer_count,
        };
        self.devices.hold(holding, target).await.map_err(told)
    }

    async fn detach(&self, target: &Path) -> Result<(), ImageError> {
        self.devices.release(target).await.map_err(told)
    }

    fn attached(&self) -> Vec<PathBuf> {
        let devices = self.devices.list().into_iter();
        let mounts = devices.flat_map(|device| device.mounts);
        mounts.map(|mount| mount.target).collect()
    }

    fn usage(&self, layers: &LazyLayers) -> Usage {
        let Ok(manifest) = layers.manifest.parse() else {
            return Usage::default();
        };
        let known = self.images.recall(&layers.reference, None, manifest);
        let top = known.ok().flatten().and_then(|resolved| {
            let shown = resolved.bottom(Some(layers.layer_count));
            shown.top_blob()
        });
        let (len, inode_count) = top.map_or((0, 0), |blob| self.images.disk_usage(&blob));
        Usage { len, inode_count }
    }
}

/// An error with its causes and what to do about it, for a log that is not ours.
#[expect(
    clippy::needless_pass_by_value,
    reason = "it stands in map_err, which gives the error away"
)]
fn told(error: DeviceError) -> ImageError {
    let (text, hint) = (sentence(&error), error.hint());
    if hint.is_empty() {
        text.into()
    } else {
        format!("{text} ({hint})").into()
    }
}
