//! A registry, tried with an image of it: whether we are let in, whether it serves ranges, and whether it lists referrers.

use tranship_format::ByteRange;
use tranship_source::{ImageReference, ImageStore, Platform, RegistryFailure};

use super::finding::{Finding, Findings};
use crate::cli::RegistryArgs;
use crate::failure::Failure;
use crate::place;

pub(super) async fn look(named: &str, args: &RegistryArgs) -> Vec<Finding> {
    let mut found = Findings::of("registry");
    let reference = match named.parse::<ImageReference>() {
        Ok(reference) => reference,
        Err(error) => {
            found.bad(
                format!("{named} is no reference: {error}"),
                "see tranship --help",
            );
            return found.all();
        }
    };
    let ImageReference::Registry(in_registry) = &reference else {
        found.odd(
            format!("{named} is in no registry"),
            "name an image of a registry",
        );
        return found.all();
    };
    let (client, repo) = match place::client(&reference, args) {
        Ok(client) => (client, &in_registry.repo),
        Err(failure) => {
            tell(&mut found, &failure);
            return found.all();
        }
    };
    // What it says to anybody counts less than what it says of the image.
    if let Err(error) = client.ping(repo).await
        && !matches!(
            error.failure(),
            RegistryFailure::Unauthorized(_) | RegistryFailure::Denied(_)
        )
    {
        tell(
            &mut found,
            &place::failure(format!("{named}: cannot reach its registry"), &error),
        );
        return found.all();
    }
    let opened = ImageStore::open(&reference, &client).await;
    let image = match opened {
        Ok(store) => store.image(&Platform::of_this_machine()).await,
        Err(error) => Err(error),
    };
    let image = match image {
        Ok(image) => image,
        Err(error) => {
            tell(
                &mut found,
                &place::failure(format!("{named}: cannot read its manifest"), &error),
            );
            return found.all();
        }
    };
    found.good(format!("{named}: we are let in"));
    if let Some(layer) = image.image.layers.first() {
        let range = ByteRange::new(0, layer.size.min(16));
        match client.blob_range(repo, &layer.digest, range).await {
            Ok(_) => found.good(format!("{named}: it serves ranges of blobs")),
            Err(error) if matches!(error.failure(), RegistryFailure::RangeIgnored) => found.bad(
                format!("{named}: it ignores ranges, so that each chunk costs a blob"),
                "take ranges through what stands before it (a proxy may drop them), or use another registry",
            ),
            Err(error) => {
                let what = format!("{named}: cannot read a range of a layer");
                tell(&mut found, &place::failure(what, &error));
            }
        }
    }
    match client.referrers(repo, &image.manifest.digest(), None).await {
        Ok(referrers) => found.good(format!("{named}: {} referrers are listed", referrers.len())),
        Err(error) => found.odd(
            format!(
                "{named}: referrers cannot be listed: {}",
                place::failure(String::new(), &error).reason()
            ),
            "use convert --mode index or tag with this registry",
        ),
    }
    found.all()
}

fn tell(found: &mut Findings, failure: &Failure) {
    found.bad(
        format!("{}: {}", failure.what(), failure.reason()),
        failure.advice(),
    );
}
