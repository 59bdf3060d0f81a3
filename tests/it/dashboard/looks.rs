//! Light and dark, narrow and wide, by keyboard.

use serde_json::json;

use super::browser::Browser;
use super::stage::{HOSTILE, Stage};

/// The lowest contrast of text on a page, with the words that have it.
pub(super) const CONTRAST: &str = r"
    const channels = (text) => { const n = text.match(/[\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
    const light = ([r, g, b]) => { const f = [r, g, b].map((c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
      return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
    const behind = (one) => { for (let at = one; at; at = at.parentElement) { const c = channels(getComputedStyle(at).backgroundColor);
      if (c[3] > 0.99) return c; } return [255, 255, 255, 1]; };
    let worst = [99, 'nothing'];
    for (const one of document.querySelectorAll('body *')) {
      if (![...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !one.getClientRects().length) continue;
      if (one.closest('.hidden, .skip, svg, script, option')) continue;
      const a = light(channels(getComputedStyle(one).color)), b = light(behind(one));
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < worst[0]) worst = [ratio, one.className + ': ' + one.innerText.slice(0, 60)];
    }
    return worst;";

#[tokio::test]
async fn every_text_stands_out_in_light_and_in_dark() {
    let stage = Stage::set("words").await;
    let browser = Browser::start().await;
    for scheme in ["light", "dark"] {
        browser.scheme(scheme).await;
        for page in stage.pages() {
            browser.open(&stage.url(&page)).await;
            let worst = browser.run(CONTRAST).await;
            assert!(worst[0].as_f64().unwrap() >= 4.5, "{scheme} {page}: {worst}");
        }
        let ground = browser.run("return getComputedStyle(document.body).backgroundColor").await;
        assert_eq!(ground == json!("rgb(16, 21, 28)"), scheme == "dark", "{scheme}: {ground}");
    }
}

#[tokio::test]
async fn no_page_is_wider_than_a_narrow_phone_or_a_wide_screen() {
    let stage = Stage::set(HOSTILE).await;
    let browser = Browser::start().await;
    for width in [320, 768, 1400, 2560] {
        browser.width(width).await;
        for page in stage.pages() {
            browser.open(&stage.url(&page)).await;
            let wide = "return [document.documentElement.scrollWidth, [...document.querySelectorAll('body *')]
                .filter((one) => one.getBoundingClientRect().right > innerWidth && !one.closest('.graph, .hidden, thead'))
                .map((one) => one.outerHTML.slice(0, 200)).slice(-2)]";
            let wide = browser.run(wide).await;
            assert!(wide[0].as_u64().unwrap() <= u64::from(width), "{page} at {width}: {wide}");
        }
    }
}

#[tokio::test]
async fn the_tab_key_reaches_everything_and_skips_the_head_first() {
    let stage = Stage::set("words").await;
    let browser = Browser::start().await;
    browser.without_news().await;
    for page in ["/", "/jobs", "/gates"] {
        browser.open(&stage.url(page)).await;
        let all = "return [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex=\"0\"]')]
            .filter((one) => one.getClientRects().length).length";
        let all = browser.run(all).await.as_u64().unwrap();
        let mut reached = std::collections::HashSet::new();
        browser.press("Tab").await;
        let first = browser.run("return document.activeElement.innerText").await;
        assert_eq!(first, "Skip to the page", "{page}");
        for _ in 0..all {
            let at = "const one = document.activeElement; const style = getComputedStyle(one);
                return [[...document.querySelectorAll('*')].indexOf(one), style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2, one.outerHTML.slice(0, 90)]";
            let at = browser.run(at).await;
            assert_eq!(at[1], true, "{page}: its focus is not seen: {at}");
            reached.insert(at[0].as_u64().unwrap());
            browser.press("Tab").await;
        }
        assert_eq!(u64::try_from(reached.len()).unwrap(), all, "{page}");
    }
    // the skip link goes where it says
    browser.open(&stage.url("/jobs")).await;
    browser.press("Tab").await;
    browser.press("Enter").await;
    assert_eq!(browser.run("return document.activeElement.id").await, "main");
}

#[tokio::test]
async fn a_page_has_its_landmarks_one_heading_and_tables_with_heads() {
    let stage = Stage::set("words").await;
    let browser = Browser::start().await;
    for page in stage.pages() {
        browser.open(&stage.url(&page)).await;
        let wrong = "const q = (what) => [...document.querySelectorAll(what)]; const wrong = [];
            for (const what of ['header', 'main', 'nav', 'footer', 'h1', '[role=search]']) if (q(what).length !== 1) wrong.push(what);
            if (document.documentElement.lang !== 'en') wrong.push('lang');
            for (const table of q('table')) if (!table.caption || [...table.querySelectorAll('th')].some((th) => !th.scope)) wrong.push('table');
            for (const field of q('input, select')) if (!field.labels.length) wrong.push('label of ' + field.name);
            for (const svg of q('svg[role=img]')) if (!svg.querySelector('title') || !svg.querySelector('desc')) wrong.push('svg');
            for (const section of q('section')) if (!document.getElementById(section.getAttribute('aria-labelledby'))) wrong.push(section.id);
            const levels = q('h1, h2, h3').map((h) => Number(h.tagName[1]));
            if (levels.some((level, at) => at && level > levels[at - 1] + 1)) wrong.push('headings');
            for (const status of q('.status')) if (!status.querySelector('.sign').innerText || !status.querySelector('bdi').innerText) wrong.push('status');
            return wrong";
        assert_eq!(browser.run(wrong).await, json!([]), "{page}");
    }
}

/// For people, too: `REVEILLE_SHOTS=folder cargo test --test it pictures` keeps those of every page.
#[tokio::test]
async fn pages_are_painted_in_light_and_dark_narrow_and_wide() {
    let stage = Stage::set("doc:4711/report, third draft").await;
    let browser = Browser::start().await;
    browser.without_news().await; // a picture of what moves may never be ready
    let mut pages = stage.pages();
    if std::env::var_os("REVEILLE_SHOTS").is_none() {
        pages.truncate(1);
    }
    let mut painted = std::collections::HashSet::new();
    for (scheme, width) in [("light", 1400), ("dark", 1400), ("light", 360), ("dark", 360)] {
        browser.scheme(scheme).await;
        browser.width(width).await;
        for page in &pages {
            browser.open(&stage.url(page)).await;
            let name = page.split('/').take(2).collect::<Vec<_>>().join("_");
            let one = if page.matches('/').count() > 1 { "_one" } else { "" };
            let picture = browser.shot(&format!("{scheme}_{width}{name}{one}")).await;
            assert!(picture.len() > 20_000, "{scheme} {width} {page}: {} characters", picture.len());
            assert!(painted.insert(picture), "{scheme} {width} {page}: the same as another");
        }
    }
}
