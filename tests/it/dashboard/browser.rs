//! A real Chromium, driven by a chromedriver of the test's own, and gone at its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

use crate::support::{Folder, SOON, wait_for, wait_until};

/// Driver, browser and profile; dropping it ends all three.
pub(super) struct Browser {
    pub(super) client: Client,
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: Folder,
}

impl Browser {
    /// Starts both. `.ci/run` installs them; a machine without them cannot keep the promise of this test.
    pub(super) async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts: install chromium and chromium-driver, as .ci/run does");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse::<u16>().ok()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("chromedriver tells its port")));
        let profile = Folder::open_to_all();
        let options = json!({
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--window-size=1400,1000",
                format!("--user-data-dir={}", profile.path().display())],
        });
        let Value::Object(capabilities) = json!({
            "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }) else {
            unreachable!()
        };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let connected = builder.capabilities(capabilities).connect(&format!("http://{address}")).await;
        let client = match connected {
            Ok(client) => client,
            Err(error) => {
                driver.kill().ok();
                driver.wait().ok();
                panic!("no session: {error}");
            }
        };
        let session = client.session_id().await.unwrap().unwrap();
        let browser = Self { client, driver, address, session, _profile: profile };
        browser.watch_policy().await;
        browser
    }

    /// Every page notes what its policy refused, from its first moment on.
    async fn watch_policy(&self) {
        let source = "window.refused = []; document.addEventListener('securitypolicyviolation',
            (event) => window.refused.push(event.violatedDirective + ' ' + event.blockedURI));";
        self.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source })).await;
    }

    /// A command of the driver for which its protocol has no word.
    async fn raw(&self, method: &'static str, path: String, body: Value) -> Value {
        let address = self.address;
        let asked = tokio::task::spawn_blocking(move || ask(address, method, &path, &body));
        asked.await.unwrap().unwrap()
    }

    pub(super) async fn devtools(&self, command: &str, params: Value) -> Value {
        let path = format!("/session/{}/goog/cdp/execute", self.session);
        self.raw("POST", path, json!({"cmd": command, "params": params})).await["value"].clone()
    }

    /// Light or dark.
    pub(super) async fn scheme(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// How wide the window is, in pixels of the page.
    pub(super) async fn width(&self, width: u32) {
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    pub(super) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
        // under load the driver answers before the last of the page has come
        let state = "return document.readyState";
        wait_until("the page is loaded", SOON, async || self.run(state).await == "complete").await;
    }

    pub(super) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Everything that a reader sees.
    pub(super) async fn text(&self) -> String {
        self.run("return document.body.innerText").await.as_str().unwrap().to_owned()
    }

    /// Waits until the page says so.
    pub(super) async fn sees(&self, words: &str) {
        let what = format!("the page says `{words}`");
        wait_until(&what, SOON, async || self.text().await.contains(words)).await;
    }

    /// Presses Tab or Enter where the focus is, as a keyboard does: also while the page is being changed.
    pub(super) async fn press(&self, key: &str) {
        let (code, text) = if key == "Tab" { (9, "") } else { (13, "\r") };
        let event = |kind: &str| json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
        self.devtools("Input.dispatchKeyEvent", event("keyDown")).await;
        self.devtools("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key, "code": key})).await;
    }

    /// Types into what has the focus.
    pub(super) async fn types(&self, text: &str) {
        self.devtools("Input.insertText", json!({ "text": text })).await;
    }

    /// One letter, as a list understands it.
    pub(super) async fn letter(&self, letter: char) {
        let code = u32::from(letter.to_ascii_uppercase());
        let event =
            |kind: &str| json!({"type": kind, "key": letter, "windowsVirtualKeyCode": code, "text": letter});
        self.devtools("Input.dispatchKeyEvent", event("keyDown")).await;
        self.devtools("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": letter})).await;
    }

    /// Goes on by Tab until what has the focus is called so: by its words, or its label.
    pub(super) async fn tab_to(&self, name: &str) {
        let focused = "const one = document.activeElement; return one.labels && one.labels[0] ? one.labels[0].innerText : one.innerText";
        for _ in 0..300 {
            self.press("Tab").await;
            if self.run(focused).await.as_str().is_some_and(|words| words.trim() == name) {
                return;
            }
        }
        panic!("nothing is called `{name}`:\n{}", self.text().await);
    }

    /// Pages stay as they were opened.
    pub(super) async fn without_news(&self) {
        self.devtools("Network.enable", json!({})).await;
        self.devtools("Network.setBlockedURLs", json!({"urls": ["*/stream*"]})).await;
    }

    /// What the policy refused, and what the console complained of, since the last time.
    pub(super) async fn complaints(&self) -> Vec<String> {
        let refused = self.run("return window.refused").await;
        let path = format!("/session/{}/se/log", self.session);
        let log = self.raw("POST", path, json!({"type": "browser"})).await;
        let lines = log["value"].as_array().into_iter().flatten();
        let lines = lines.filter_map(|line| line["message"].as_str()).map(str::to_owned);
        refused.as_array().unwrap().iter().map(ToString::to_string).chain(lines).collect()
    }

    /// A picture in base64; also kept where somebody wants to look at it: `REVEILLE_SHOTS` names the folder.
    pub(super) async fn shot(&self, name: &str) -> String {
        self.devtools("Page.bringToFront", json!({})).await; // what lies behind is not painted
        let size = self.devtools("Page.getLayoutMetrics", json!({})).await["cssContentSize"].clone();
        let clip = json!({"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1});
        let params = json!({"captureBeyondViewport": true, "format": "png", "clip": clip});
        let picture = wait_for("a picture", SOON, async || {
            let shot = self.devtools("Page.captureScreenshot", params.clone()).await;
            shot["data"].as_str().map(str::to_owned)
        });
        let picture = picture.await;
        if let Some(folder) = std::env::var_os("REVEILLE_SHOTS") {
            std::fs::write(PathBuf::from(folder).join(format!("{name}.png.base64")), &picture).unwrap();
        }
        picture
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // the driver ends the browser when its session ends, and would leave it behind when killed first
        ask(self.address, "DELETE", &format!("/session/{}", self.session), &Value::Null).ok();
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

fn ask(address: SocketAddr, method: &str, path: &str, body: &Value) -> std::io::Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )?;
    // the driver keeps the connection open, whatever it is told
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(told) = line.to_lowercase().strip_prefix("content-length:") {
            length = told.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}
