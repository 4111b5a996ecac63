//! The status page for people: plain HTML, no script, readable in any browser or pager.

use std::fmt::{self, Write};

use bytesize::ByteSize;

use crate::status::{SeedStatus, Status};

/// A page is looked at, not searched: longer tables are cut, and the JSON has all.
const MAX_ROWS: usize = 500;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c2733}\
h1{font-size:1.4rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .4rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .8rem .25rem 0;border-bottom:1px solid #e3e8ee;vertical-align:top}\
th{font-weight:600;color:#52616f}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}p.quiet{color:#52616f}\
@media(prefers-color-scheme:dark){body{background:#11171d;color:#dbe3ea}th,p.quiet{color:#93a3b1}th,td{border-color:#263340}}";

/// Text that came from outside, made harmless.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// The whole page.
pub(crate) fn render(status: &Status) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut page, status);
    page
}

fn write_page(page: &mut String, status: &Status) -> fmt::Result {
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>tranship tracker</title><style>{STYLE}</style></head><body>\
         <h1>tranship tracker</h1><p class=\"quiet\">version {}, up for {} s, epoch <code>{:016x}</code> · \
         <a href=\"/v1/status\">JSON</a> · <a href=\"/metrics\">metrics</a></p>",
        Escaped(&status.version),
        status.uptime_seconds,
        status.epoch,
    )?;
    write!(page, "<p>Nodes join with <code>tracker = </code>")?;
    for address in &status.listen {
        write!(page, "<br><code>{}</code>", Escaped(address))?;
    }
    write!(page, "</p>")?;
    write_members(page, status)?;
    write_images(page, status)?;
    write_blobs(page, status)?;
    write_seed(page, status.seed.as_ref())?;
    write!(
        page,
        "<p class=\"quiet\">{} leases held, {} requests answered, {} joins refused, {} peers banned.</p></body></html>",
        status.lease_count, status.request_count, status.refused_join_count, status.ban_count,
    )
}

fn write_members(page: &mut String, status: &Status) -> fmt::Result {
    write!(
        page,
        "<h2>Members ({})</h2><table><tr><th>peer<th>role<th>zone<th>address<th>connected</tr>",
        status.members.len()
    )?;
    for member in status.members.iter().take(MAX_ROWS) {
        write!(
            page,
            "<tr><td><code>{}</code><td>{}<td>{}<td><code>{}</code><td>{}</tr>",
            Escaped(&member.peer_id),
            Escaped(&member.role),
            Escaped(&member.zone),
            Escaped(&member.addresses.join(" ")),
            if member.connected { "yes" } else { "no" },
        )?;
    }
    write_rest(page, status.members.len())
}

fn write_images(page: &mut String, status: &Status) -> fmt::Result {
    write!(
        page,
        "<h2>Images ({})</h2><table><tr><th>image<th>manifest<th class=\"n\">opened</tr>",
        status.images.len()
    )?;
    for image in status.images.iter().take(MAX_ROWS) {
        write!(
            page,
            "<tr><td>{}/{}<td><code>{}</code><td class=\"n\">{}</tr>",
            Escaped(&image.registry),
            Escaped(&image.repository),
            Escaped(&image.manifest),
            image.open_count,
        )?;
    }
    write_rest(page, status.images.len())
}

fn write_blobs(page: &mut String, status: &Status) -> fmt::Result {
    write!(
        page,
        "<h2>Blobs ({})</h2><table><tr><th>blob<th class=\"n\">members<th class=\"n\">stripes<th class=\"n\">complete somewhere\
         <th class=\"n\">leased<th class=\"n\">holders a stripe</tr>",
        status.blobs.len()
    )?;
    for blob in status.blobs.iter().take(MAX_ROWS) {
        let tenths = blob
            .registration_count
            .saturating_mul(10)
            .checked_div(blob.stripe_count)
            .unwrap_or(0);
        write!(
            page,
            "<tr><td><code>{}</code><td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}.{}</tr>",
            Escaped(&blob.digest),
            blob.member_count,
            blob.stripe_count,
            blob.complete_count,
            blob.leased_count,
            tenths / 10,
            tenths % 10,
        )?;
    }
    write_rest(page, status.blobs.len())
}

fn write_seed(page: &mut String, seed: Option<&SeedStatus>) -> fmt::Result {
    let Some(seed) = seed else {
        return write!(page, "<h2>Seed</h2><p>off</p>");
    };
    let size = |len: u64| ByteSize::b(len);
    let counters = &seed.counters;
    write!(
        page,
        "<h2>Seed</h2><table><tr><th>holds<td class=\"n\">{} of {}</tr><tr><th>images<td class=\"n\">{}</tr>\
         <tr><th>from the registry<td class=\"n\">{}</tr><tr><th>from peers<td class=\"n\">{}</tr>\
         <tr><th>given to peers<td class=\"n\">{}</tr><tr><th>wrong chunks refused<td class=\"n\">{}</tr></table>",
        size(seed.stored_len),
        size(seed.quota_len),
        seed.image_count,
        size(counters.registry.len),
        size(counters.peer.len),
        size(counters.served.len),
        counters.refused.count,
    )
}

fn write_rest(page: &mut String, count: usize) -> fmt::Result {
    write!(page, "</table>")?;
    match count.saturating_sub(MAX_ROWS) {
        0 => Ok(()),
        more => write!(page, "<p class=\"quiet\">and {more} more</p>"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::ImageStatus;

    #[test]
    fn what_nodes_say_cannot_become_markup() {
        let status = Status {
            images: vec![ImageStatus {
                registry: "<script>".to_owned(),
                repository: "a&b\"'".to_owned(),
                manifest: "sha256:0".to_owned(),
                open_count: 3,
            }],
            ..Status::default()
        };
        let page = render(&status);
        assert!(page.contains("&lt;script&gt;/a&amp;b&quot;&#39;"));
        assert!(!page.contains("<script>"));
        assert!(page.ends_with("</html>"));
    }
}
