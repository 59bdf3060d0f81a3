//! How a text is divided.

use std::time::{Duration, Instant};

use reveille::model::refusal::Answer;
use reveille::store::pilot_host;
use serde_json::{Value, json};

use super::{approve, cut, id, mark, standing, with_host};

/// Texts that a divider could trip over.
fn awkward_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        "x",
        "\n",
        "\r",
        "\r\n",
        " ",
        "\n\n\n",
        "\t\n \r\n",
        "a\n",
        "\na",
        "\u{feff}# Title",
        "é",
        "𝄞",
        "𝄞\n\n𝄞\r\n\r\n𝄞",
        "one\rtwo\r\rthree",
        "#\n##\n###\n",
        "# a\n# b\n# c",
        "```\n# not a heading\n",
        "~~~\n\n~~~\n# heading\n\n---\n\ntext",
        "Title\n=====\n\nUnder\n-----\ntext",
        "\u{2028}\u{2029}\u{85}",
        "'; drop table x; -- $$ \\ \" %",
        "{\"body\": \"json\"}",
    ]
    .map(str::to_owned)
    .to_vec();
    // mixtures of what divides and what must not be divided, without a random seed that nobody can repeat
    let parts = [
        "\n",
        "\r\n",
        "\n\n",
        "# ",
        "## ",
        "word ",
        "𝄞é",
        "----",
        "```\n",
        " ",
        "1. ",
        "Chapter 2",
        "CHƯƠNG I",
        "\t",
    ];
    let mut state: u64 = 42;
    for length in [10, 100, 1000, 5000] {
        for _ in 0..5 {
            let mut text = String::new();
            for _ in 0..length {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(parts[usize::try_from(state >> 33).unwrap() % parts.len()]);
            }
            texts.push(text);
        }
    }
    texts
}

#[tokio::test]
async fn pieces_are_the_document_byte_for_byte_whatever_the_text() {
    let (_db, client) = with_host().await;
    for (number, text) in awkward_texts().iter().enumerate() {
        let record = mark(&client, text, &format!("text {number}")).await;
        approve(&client, record).await;
        let pieces = cut(&client, record).await;
        assert_eq!(pieces.concat(), text.as_bytes(), "{text:?}");
        assert!(pieces.iter().all(|piece| !piece.is_empty()), "{text:?}");
        assert_eq!(usize::try_from(standing(&client, record).await.piece_count).unwrap(), pieces.len());
    }
}

#[tokio::test]
async fn five_megabytes_of_any_text_are_marked_and_cut_in_seconds_into_a_bounded_number_of_pieces() {
    const SIZE: usize = 5_000_000;
    let (_db, client) = with_host().await;
    client.batch_execute("set statement_timeout = '20s'").await.unwrap(); // a quadratic divider takes minutes
    for part in [
        "x",
        "\n",
        "\r\n",
        "# heading\n",
        "# a longer heading that is a line\n",
        "ab\n\n",
        "𝄞",
        "𝄞𝄞\n",
        "a line of text of some length that ends\n",
    ] {
        let text = part.repeat(SIZE / part.len());
        let begun = Instant::now();
        let record = mark(&client, &text, part).await;
        approve(&client, record).await;
        let pieces = cut(&client, record).await;
        assert!(pieces.concat() == text.as_bytes(), "{part:?}");
        assert!(pieces.len() <= 4100, "{part:?}: {} pieces", pieces.len());
        assert!(begun.elapsed() < Duration::from_secs(30), "{part:?} took {:?}", begun.elapsed());
    }
    let large = "x".repeat(pilot_host::LARGEST_DOCUMENT + 1);
    let answer = pilot_host::mark_file(&client, &large, "too large", "tester").await.unwrap();
    assert!(matches!(answer, Answer::Refused(refusal) if refusal.reason == "payload_too_large"));
}

#[tokio::test]
async fn headings_and_paragraphs_decide_where_pieces_begin() {
    let (_db, client) = with_host().await;
    let long = "A paragraph that is long enough to stand alone. ".repeat(6);
    let text = format!(
        "Preface, short.\n\n# One #\n\n{long}\n\n{long}\n\n```sh\n# not a heading\n\nsame block\n```\n\n\
         Two\n---\n\n{long}\n\n### Deep\n\nshort\n\nalso short\n\nĐiều 45\n\n{long}\n\nChapter II. The end\n\n3.2 Numbers\n\n{long}\n",
        long = long.trim_end()
    );
    let record = mark(&client, &text, "doc").await;
    approve(&client, record).await;
    let bodies: Vec<String> =
        cut(&client, record).await.into_iter().map(|piece| String::from_utf8(piece).unwrap()).collect();
    let run = standing(&client, record).await.run_id.unwrap();
    let pieces = pilot_host::pieces(&client, run, 100).await.unwrap();
    let seen: Vec<(String, &str)> = pieces
        .iter()
        .zip(&bodies)
        .map(|(piece, body)| (piece.heading_path.join(" > "), body.get(..7).unwrap_or(body)))
        .collect();
    let seen: Vec<(&str, &str)> = seen.iter().map(|(path, body)| (path.as_str(), *body)).collect();
    assert_eq!(
        seen,
        [
            ("", "Preface"),
            ("One", "# One #"),
            ("One", "A parag"),
            ("One", "```sh\n#"),
            ("One > Two", "Two\n---"),
            ("One > Two > Deep", "### Dee"),
            ("One > Two > Điều 45", "Điều"),
            ("One > Chapter II. The end", "Chapter"),
            ("One > Chapter II. The end > 3.2 Numbers", "3.2 Num"),
        ]
    );
}

#[tokio::test]
async fn given_pieces_are_checked_and_completed() {
    let (_db, client) = with_host().await;
    let given = async |pieces: Value| -> Value {
        let sql = "select fn_iu_op_mark_file('abé𝄞', 'doc', $1)";
        client.query_one(sql, &[&pieces]).await.unwrap().get(0)
    };
    for (pieces, problem) in [
        (json!([{ "byte_len": 2 }]), "the pieces hold 2 of 8 bytes"),
        (json!([]), "the pieces hold 0 of 8 bytes"),
        (json!([{ "byte_len": 9 }]), "piece 1 reaches beyond the text"),
        (json!([{ "byte_len": 3 }, { "byte_len": 5 }]), "piece 2 begins inside a character"),
        (
            json!([{ "byte_len": 2 }, { "byte_len": 6, "byte_start": 1 }]),
            "piece 2 begins at byte 1, expected 2",
        ),
        (json!([{ "byte_len": 8 }, { "byte_len": 0 }]), "piece 2 has no length"),
        (json!([{ "text": "abé𝄞" }]), "piece 1 has no length"),
        (json!([{ "byte_len": 8, "content_hash": "00" }]), "piece 1 is not what its hash says"),
    ] {
        let answer = given(pieces).await;
        assert_eq!((&answer["reason"], &answer["problem"]), (&json!("pieces_do_not_cover"), &json!(problem)));
    }
    let answer = given(json!([{ "byte_len": 2, "heading_path": ["A"] }, { "byte_len": 6 }])).await;
    approve(&client, id(&answer)).await;
    assert_eq!(cut(&client, id(&answer)).await, ["ab".as_bytes(), "é𝄞".as_bytes()]);
}
