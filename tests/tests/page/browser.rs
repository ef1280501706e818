//! A browser, led by `WebDriver` (<https://www.w3.org/TR/webdriver2/>), the little that looking at a page takes.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use auditflow_tests::{http, until};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// What `WebDriver` calls an element's id in JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A running Chromium and its driver; both end when this is dropped.
pub(crate) struct Browser {
    driver: Child,
    address: String,
    session: String,
}

impl Browser {
    /// Starts one with a profile of its own in `folder`; `None` where Chromium or its driver is not installed.
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let is_here = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !is_here("chromedriver") || !is_here("chromium") {
            return Ok(None);
        }
        // Into a file: a pipe would want a reader until the end.
        let said = folder.join("chromedriver.log");
        let mut command = Command::new("chromedriver");
        command
            .arg("--port=0")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(&said)?)
            .stderr(Stdio::null());
        let driver = command.spawn().context("cannot start chromedriver")?;
        let mut browser = Self { driver, address: String::new(), session: String::new() };
        // “ChromeDriver was started successfully on port 41234.”
        browser.address = until("chromedriver says its port", || {
            let said = fs::read_to_string(&said)?;
            let port = said.split_once("successfully on port ").and_then(|(_, rest)| rest.split_once('.'));
            Ok(port.map(|(port, _)| format!("127.0.0.1:{port}")))
        })?;
        let mut arguments: Vec<String> = [
            "headless",
            "no-sandbox",
            "disable-gpu",
            "disable-quic",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "disable-dev-shm-usage",
            "hide-scrollbars",
            "lang=en",
        ]
        .map(|flag| format!("--{flag}"))
        .to_vec();
        arguments.push(format!("--user-data-dir={}", folder.join("chromium").display()));
        arguments.push("--window-size=1280,1000".to_owned());
        let wished = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.send("POST", "/session", &wished)?;
        session["sessionId"].as_str().context("a session's id")?.clone_into(&mut browser.session);
        Ok(Some(browser))
    }

    /// Opens a page and waits until it is loaded.
    pub(crate) fn open(&self, url: &str) -> anyhow::Result<()> {
        self.ask("POST", "/url", &json!({ "url": url })).map(drop)
    }

    /// Where it is.
    pub(crate) fn address(&self) -> anyhow::Result<String> {
        Ok(self.ask("GET", "/url", &Value::Null)?.as_str().unwrap_or_default().to_owned())
    }

    /// Runs the body of a function in the page; returns what it returns.
    pub(crate) fn script(&self, body: &str) -> anyhow::Result<Value> {
        self.ask("POST", "/execute/sync", &json!({ "script": body, "args": [] }))
    }

    /// Types into the element that a CSS selector finds.
    pub(crate) fn type_into(&self, selector: &str, text: &str) -> anyhow::Result<()> {
        let found = self.ask("POST", "/element", &json!({ "using": "css selector", "value": selector }))?;
        let element = found[ELEMENT].as_str().with_context(|| format!("no element {selector}"))?.to_owned();
        self.ask("POST", &format!("/element/{element}/value"), &json!({ "text": text })).map(drop)
    }

    /// Presses a key, as `WebDriver` names it, wherever the focus is.
    pub(crate) fn press(&self, key: &str) -> anyhow::Result<()> {
        let strokes = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] });
        self.ask("POST", "/actions", &actions).map(drop)
    }

    /// Says which colour scheme is preferred: `light` or `dark`.
    pub(crate) fn prefer_colours(&self, scheme: &str) -> anyhow::Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let command = json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } });
        self.ask("POST", "/goog/cdp/execute", &command).map(drop)
    }

    /// A picture of what the window shows, as PNG.
    pub(crate) fn picture(&self) -> anyhow::Result<Vec<u8>> {
        let picture = self.ask("GET", "/screenshot", &Value::Null)?;
        let text = picture.as_str().context("a picture in base64")?;
        Ok(data_encoding::BASE64.decode(text.as_bytes())?)
    }

    /// Makes the window as high as the page.
    pub(crate) fn fit_window(&self) -> anyhow::Result<()> {
        let height =
            self.script("return Math.ceil(document.documentElement.getBoundingClientRect().height);")?;
        let height = height.as_u64().context("a height")?;
        let chrome = self.script("return window.outerHeight - window.innerHeight;")?.as_u64().unwrap_or(0);
        self.ask("POST", "/window/rect", &json!({ "width": 1280, "height": height + chrome })).map(drop)
    }

    /// What the console complains about: scripts that fail, what the page's policy forbids, what is missing.
    pub(crate) fn complaints(&self) -> anyhow::Result<Vec<String>> {
        let log = self.ask("POST", "/se/log", &json!({ "type": "browser" }))?;
        let severe = log.as_array().into_iter().flatten().filter(|entry| entry["level"] == "SEVERE");
        Ok(severe.map(|entry| entry["message"].to_string()).collect())
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(method, &format!("/session/{}{path}", self.session), body)
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = http::ask(&self.address, method, path, &[], &body)?;
        if answer.status != 200 {
            bail!("{method} {path}: {}: {}", answer.status, answer.body);
        }
        let answer: Value = serde_json::from_str(&answer.body)?;
        Ok(answer["value"].clone())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // Should this fail, the next line ends them all the same.
            let _ = self.ask("DELETE", "", &Value::Null);
        }
        let _ = killpg(Pid::from_raw(self.driver.id().cast_signed()), Signal::SIGKILL);
        let _ = self.driver.wait();
    }
}
