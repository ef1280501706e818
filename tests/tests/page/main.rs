//! The page as somebody sees it: in Chromium, logged in, live.
//!
//! `AUDITFLOW_WRITE_PICTURE=MINUTES` lets four nodes work for so many minutes and writes what the page then shows to
//! docs/images/page.png, which the README has.

mod browser;
mod picture;

use anyhow::{Context, ensure};
use auditflow_tests::node::{NO_KERNEL, SYNTHETIC};
use auditflow_tests::{Agent, Binaries, Collector, Node, until};
use browser::Browser;
use serde_json::{Value, json};

/// The rule that three failed logins trip.
const RULE: &str = "Repeated Failed Logins";

fn log_in(browser: &Browser, collector: &Collector) -> anyhow::Result<()> {
    let password = collector.run(&["admin", "reset-password"])?.success()?;
    let home = format!("http://{}/", collector.page);
    browser.open(&home)?;
    ensure!(browser.address()?.contains("/login"), "nobody is let in without a password");
    // The user is filled in, and the password has the focus.
    browser.type_into("input[name=password]", &format!("{}\n", password.stdout.trim()))?;
    until("the first page is shown", || {
        let address = browser.address()?;
        ensure!(address == home, "{address} shows: {}", text(browser)?);
        Ok(Some(()))
    })?;
    until("the page listens", || {
        let live = browser.script("return document.getElementById('live')?.textContent;")?;
        Ok((live == "live").then_some(()))
    })
}

/// What the first page says, as text.
fn text(browser: &Browser) -> anyhow::Result<String> {
    Ok(browser
        .script("return document.getElementById('main').innerText;")?
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

fn fail_login(agent: &Agent, user: &str) -> anyhow::Result<()> {
    for _ in 0..3 {
        post(
            agent,
            &json!({
                "event_type": "user_login", "action_result": "FAILURE", "user_id": user, "server_hostname": "web-1",
                "details": { "ip_address": "192.0.2.7" },
            }),
        )?;
    }
    Ok(())
}

fn post(agent: &Agent, event: &Value) -> anyhow::Result<()> {
    let answer = agent.ask("POST", "/generate_event", &event.to_string())?;
    ensure!(answer.status == 202, "{answer:?}");
    Ok(())
}

#[test]
fn an_alert_appears_on_the_page_without_a_reload() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(browser) = Browser::start(folder.path())? else {
        eprintln!("SKIPPED: the page in a browser: install Debian packages chromium and chromium-driver");
        return Ok(());
    };
    let binaries = Binaries::find()?;
    let collector = Collector::start(&binaries, &folder.path().join("collector"))?;
    log_in(&browser, &collector)?;
    ensure!(
        text(&browser)?.contains("Let the first node join"),
        "an empty site says what to do: {}",
        text(&browser)?
    );

    let node = Node::make(&folder.path().join("first"), &[NO_KERNEL, SYNTHETIC].concat())?;
    let named = picture::named(&binaries, &folder.path().join("first"), "k3s-server")?;
    node.join(&named, &collector)?;
    let agent = node.start(&named)?;
    until("the page is no longer empty", || Ok(text(&browser)?.contains("1 of 1 complete").then_some(())))?;

    // What a reload would forget.
    browser.script("window.sinceLoad = true;")?;
    ensure!(!text(&browser)?.contains(RULE));
    fail_login(&agent, "mallory")?;
    until("the alert is on the page", || Ok(text(&browser)?.contains(RULE).then_some(())))?;
    assert_eq!(
        browser.script("return window.sinceLoad === true;")?,
        json!(true),
        "the page was loaded again"
    );

    // An alert's own page says why it fired and shows the proof.
    let link = browser.script("return document.querySelector('[data-alert] a').href;")?;
    browser.open(link.as_str().context("a link")?)?;
    let alert = text(&browser)?;
    for expected in [RULE, "mallory", "verified", "ANLY-SEC-001"] {
        ensure!(alert.contains(expected), "{expected:?} is not on the alert's page: {alert}");
    }
    for path in ["view/alerts", "view/events", "view/rules", "docs", "view/audit", ""] {
        browser.open(&format!("http://{}/{path}", collector.page))?;
        if path == "view/audit" {
            ensure!(text(&browser)?.contains("session.open"), "the login is in the audit trail");
            assert_readable_by_day_and_night(&browser)?;
        }
    }
    browser.fit_window()?;
    let picture = browser.picture()?;
    ensure!(
        picture.starts_with(b"\x89PNG") && picture.len() > 20_000,
        "{} bytes are no picture",
        picture.len()
    );
    assert_keyboard_leads_past_the_menu(&browser)?;
    assert_readable_by_day_and_night(&browser)?;
    let complaints = browser.complaints()?;
    ensure!(complaints.is_empty(), "the browser complains: {complaints:#?}");
    if let Ok(minutes) = std::env::var("AUDITFLOW_WRITE_PICTURE") {
        picture::take(&browser, &binaries, &collector, folder.path(), minutes.parse()?)?;
    }
    Ok(())
}

/// The first stop of the Tab key skips the menu, and every link and button is a stop.
fn assert_keyboard_leads_past_the_menu(browser: &Browser) -> anyhow::Result<()> {
    browser.press("\u{e004}")?;
    let first = browser.script("return document.activeElement.getAttribute('href');")?;
    assert_eq!(first, "#main", "the first stop of the Tab key");
    browser.press("\u{e007}")?;
    let at = browser.script("return document.activeElement.id;")?;
    assert_eq!(at, "main", "Enter goes there");
    let unreachable = browser.script(
        "return [...document.querySelectorAll('a, button, input, summary')].filter((it) => it.tabIndex < 0).length;",
    )?;
    assert_eq!(unreachable, 0, "links and buttons that the keyboard does not reach");
    Ok(())
}

/// In both colour schemes each text stands out from what is behind it by the contrast that WCAG 2 AA asks for.
fn assert_readable_by_day_and_night(browser: &Browser) -> anyhow::Result<()> {
    let mut backgrounds = Vec::new();
    for scheme in ["dark", "light"] {
        browser.prefer_colours(scheme)?;
        backgrounds.push(browser.script("return getComputedStyle(document.body).backgroundColor;")?);
        let faint = browser.script(include_str!("contrast.js"))?;
        assert_eq!(faint, json!([]), "hard to read in {scheme}");
    }
    assert_ne!(backgrounds[0], backgrounds[1], "dark and light look the same");
    Ok(())
}
