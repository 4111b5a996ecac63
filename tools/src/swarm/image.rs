//! `tranship swarm image`: how far an image has spread.

use comfy_table::Cell;
use tranship_format::Digest;
use tranship_tracker::message::{BlobDetail, ImageDetail};

use crate::cli::{Common, SwarmImageArgs};
use crate::failure::Outcome;
use crate::output::{self, Format, number, size};

pub(super) async fn run(common: &Common, args: &SwarmImageArgs) -> Outcome {
    let client = super::client(&args.tracker)?;
    let manifest = match args.reference.parse::<Digest>() {
        Ok(digest) => digest,
        Err(_) => {
            super::resolve(&args.reference, args.platform.as_ref(), &args.registry)
                .await?
                .1
        }
    };
    let image = client.image(&manifest.to_string()).await.map_err(|error| {
        let what = format!("cannot show how far {} has spread", args.reference);
        super::failure(&what, &error)
    })?;
    if common.output == Format::Json {
        return output::print_json(&image);
    }
    show(&image, args.stripes)
}

fn show(image: &ImageDetail, with_stripes: bool) -> Outcome {
    let origin_len: u64 = image.blobs.iter().map(|blob| blob.origin_len).sum();
    let len: u64 = image.blobs.iter().map(|blob| blob.len).sum();
    output::print(&format!(
        "{}/{}@{}\nopened {} times, {} read of the registry for {}\n\n",
        image.registry,
        image.repository,
        image.manifest,
        image.open_count,
        size(origin_len),
        size(len),
    ))?;
    let mut table = output::table([
        "BLOB", "SIZE", "ORIGIN", "MEMBERS", "STRIPES", "WHOLE", "LEASED", "HOLDERS", "GETTING",
    ]);
    for blob in &image.blobs {
        table.add_row(row(blob));
    }
    output::print_table(&table)?;
    if !with_stripes {
        return Ok(());
    }
    let mut table = output::table(["BLOB", "STRIPE", "HOLDERS", "GETTING", "LEASE"]);
    for blob in &image.blobs {
        for stripe in &blob.stripes {
            table.add_row([
                Cell::new(&blob.digest),
                number(stripe.number.to_string()),
                number(stripe.holder_count.to_string()),
                number(stripe.in_flight_count.to_string()),
                Cell::new(stripe.lease_holder.as_deref().unwrap_or("-")),
            ]);
        }
    }
    output::print(&format!("\n{}", output::text_of(&table)))
}

/// Holders and those who get it are means over the stripes, since each stripe has its own.
fn row(blob: &BlobDetail) -> [Cell; 9] {
    let stripes = blob.stripes.iter();
    let whole = stripes.clone().filter(|stripe| stripe.holder_count > 0);
    let leased = stripes
        .clone()
        .filter(|stripe| stripe.lease_holder.is_some());
    let holders: u64 = stripes.clone().map(|stripe| stripe.holder_count).sum();
    let getting: u64 = stripes.map(|stripe| stripe.in_flight_count).sum();
    [
        Cell::new(&blob.digest),
        number(size(blob.len)),
        number(size(blob.origin_len)),
        number(blob.member_count.to_string()),
        number(blob.stripe_count.to_string()),
        number(whole.count().to_string()),
        number(leased.count().to_string()),
        number(mean(holders, blob.stripe_count)),
        number(mean(getting, blob.stripe_count)),
    ]
}

/// With one decimal, rounded down.
fn mean(sum: u64, count: u32) -> String {
    let tenths = sum
        .saturating_mul(10)
        .checked_div(count.into())
        .unwrap_or(0);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_have_one_decimal_and_nothing_has_none() {
        assert_eq!(mean(7, 2), "3.5");
        assert_eq!(mean(0, 0), "0.0");
    }
}
