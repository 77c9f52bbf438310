use serde::Serialize;

const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='6' fill='%23d9622b'/%3E%3C/svg%3E";
/// How all pages of this program look: their colours in light and dark, their type, cards, buttons.
pub const LOOK: &str = include_str!("look.css");

/// One file of HTML that asks nobody for anything: `data` lies in it as JSON, in the element
/// `data`, for the scripts to read.
pub(super) fn page(
    title: &str,
    styles: &[&str],
    body: &str,
    data: &impl Serialize,
    scripts: &[&str],
) -> serde_json::Result<String> {
    // Within a script nothing but its end is read; this writes the same in JSON.
    let data = serde_json::to_string(data)?.replace('<', "\\u003c");
    let title = escaped(title);
    let styles = styles.concat();
    let scripts: String =
        scripts.iter().map(|script| format!("<script>\n{script}</script>\n")).collect();
    Ok(format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<link rel="icon" href="{ICON}">
<style>
{LOOK}{styles}</style>
</head>
<body>
{body}<script id="data" type="application/json">{data}</script>
{scripts}</body>
</html>
"#
    ))
}

/// Text as it stands in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
