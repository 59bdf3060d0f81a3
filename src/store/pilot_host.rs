//! The pilot host: a small stand-in for the database that Reveille is installed beside, for demo and tests.
//!
//! Its SQL is `migrations/pilot_host`; `migrate` never runs it. Texts go into its staging payload and nowhere else.

use deadpool_postgres::GenericClient;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{get, row, rows};
use crate::error::{Error, Result};
use crate::model::refusal::Answer;

const UP: &str = include_str!("../../migrations/pilot_host/up.sql");
const FUNCTIONS: &str = include_str!("../../migrations/pilot_host/functions.sql");
const DOWN: &str = include_str!("../../migrations/pilot_host/down.sql");

/// Largest document that can be staged, in bytes.
pub const LARGEST_DOCUMENT: usize = 10 * 1024 * 1024;

/// Creates its tables, functions, event types and job handlers in one transaction. Its gates are closed.
///
/// # Errors
/// SQLSTATE 42P06 when it is there already.
pub async fn install(client: &impl GenericClient) -> Result<()> {
    let script = format!("{UP}\n{FUNCTIONS}");
    client.batch_execute(&script).await.map_err(|error| Error::postgres("installing the pilot host", error))
}

/// Removes it.
///
/// # Errors
/// SQLSTATE 55000 while it holds documents, pieces or collections.
pub async fn remove(client: &impl GenericClient) -> Result<()> {
    client.batch_execute(DOWN).await.map_err(|error| Error::postgres("removing the pilot host", error))
}

/// Opens its gates; staged texts are kept for `retention_days` after CUT, 0 cleans them up at once.
pub async fn open_gates(client: &impl GenericClient, retention_days: u16) -> Result<()> {
    const SQL: &str = "
        update tac_birth_gate_config c
        set config_value = case when c.config_key like '%\\_days' then $1 else 'true' end,
            updated_at = clock_timestamp()
        where c.config_key in
          ('iu_core.staging_writes_enabled', 'iu_core.retention_enabled', 'iu_core.staging_retention_days')";
    rows(client, "opening the gates of the pilot host", SQL, &[&retention_days.to_string()]).await?;
    Ok(())
}

/// MARK: stages a text and its cut manifest. The answer holds `staging_record_id` and `piece_count`.
pub async fn mark_file(
    client: &impl GenericClient,
    text: &str,
    source_ref: &str,
    actor: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_iu_op_mark_file(p_source_text => $1, p_source_ref => $2, p_actor => $3) as answer";
    let answer = row(client, "staging a document", SQL, &[&text, &source_ref, &actor]).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Verifies a marked record and approves it, or rejects it; emits the event in the same transaction.
pub async fn verify_mark(
    client: &impl GenericClient,
    staging_record_id: Uuid,
    approve: bool,
    approval_doc_id: &str,
    approver: &str,
) -> Result<Answer> {
    const SQL: &str = "
        select fn_iu_op_verify_mark(
          p_staging_record_id => $1, p_approve => $2, p_approval_doc_id => $3, p_approver => $4,
          p_actor => $4) as answer";
    let parameters: super::Parameters<'_> = &[&staging_record_id, &approve, &approval_doc_id, &approver];
    let answer = row(client, "approving a document", SQL, parameters).await?;
    Ok(Answer::from_json(get(&answer, "answer")?))
}

/// Keeps a document as its author does, where the first step of the cut pipeline finds it.
pub async fn keep_source(client: &impl GenericClient, source_ref: &str, body: &str) -> Result<()> {
    const SQL: &str = "
        insert into iu_core.iu_source (source_ref, body) values ($1, $2)
        on conflict (source_ref) do update set body = excluded.body";
    rows(client, "keeping a document", SQL, &[&source_ref, &body]).await.map(drop)
}

/// Whether the pieces of a record are, in order and byte for byte, those that a workflow has cut.
pub async fn has_same_pieces(
    client: &impl GenericClient,
    staging_record_id: Uuid,
    workflow_id: Uuid,
) -> Result<bool> {
    const SQL: &str = "
        select count(*) > 0 and bool_and(a.body is not distinct from b.body and a.heading_path is not distinct from b.heading_path) as same
        from (select p.* from iu_core.iu_piece p where p.staging_record_id = $1) a
        full join (
          select p.* from iu_core.iu_piece p
          join iu_core.iu_staging_record r on r.staging_record_id = p.staging_record_id
          where r.workflow_ref = $2::uuid::text) b on b.piece_no = a.piece_no";
    get(&row(client, "comparing pieces", SQL, &[&staging_record_id, &workflow_id]).await?, "same")
}

/// Where a staging record stands.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    /// pending, `pending_review`, approved, consumed, rejected, expired or cleaned.
    pub lifecycle_status: String,
    /// Bytes of the document.
    pub source_bytes: i64,
    /// Pieces that MARK made of it.
    pub piece_count: i32,
    /// The cut run; none before CUT.
    pub run_id: Option<Uuid>,
    /// verified or failed; none before VERIFY CUT.
    pub verdict: Option<String>,
    /// Bytes of its staged bodies; 0 after clean-up.
    pub staged_bytes: i64,
}

/// Where a record stands; none when there is no such record.
pub async fn standing(client: &impl GenericClient, staging_record_id: Uuid) -> Result<Option<Standing>> {
    const SQL: &str = "
        select r.lifecycle_status, r.source_bytes, r.piece_count, c.run_id, c.verdict,
               (select coalesce(sum(p.byte_len), 0)::bigint
                from iu_core.iu_staging_payload p
                where p.staging_record_id = r.staging_record_id) as staged_bytes
        from iu_core.iu_staging_record r
        left join iu_core.iu_cut_run c on c.staging_record_id = r.staging_record_id
        where r.staging_record_id = $1";
    let found = rows(client, "reading a staging record", SQL, &[&staging_record_id]).await?;
    let standing = |row: &tokio_postgres::Row| {
        Ok(Standing {
            lifecycle_status: get(row, "lifecycle_status")?,
            source_bytes: get(row, "source_bytes")?,
            piece_count: get(row, "piece_count")?,
            run_id: get(row, "run_id")?,
            verdict: get(row, "verdict")?,
            staged_bytes: get(row, "staged_bytes")?,
        })
    };
    found.first().map(standing).transpose()
}

/// One piece that CUT made.
#[derive(Debug, Clone, Serialize)]
pub struct Piece {
    /// From 1.
    pub piece_no: i32,
    /// The headings above it, outermost first.
    pub heading_path: Vec<String>,
    /// Where it begins in the document, in bytes.
    pub byte_start: i64,
    /// How long it is, in bytes.
    pub byte_len: i64,
}

/// The first `limit` pieces of a run, in order, without their text.
pub async fn pieces(client: &impl GenericClient, run_id: Uuid, limit: i64) -> Result<Vec<Piece>> {
    const SQL: &str = "
        select p.piece_no, p.heading_path, p.byte_start, p.byte_len
        from iu_core.iu_piece p
        where p.run_id = $1
        order by p.piece_no
        limit $2";
    let found = rows(client, "reading pieces", SQL, &[&run_id, &limit]).await?;
    let piece = |row: &tokio_postgres::Row| {
        Ok(Piece {
            piece_no: get(row, "piece_no")?,
            heading_path: get(row, "heading_path")?,
            byte_start: get(row, "byte_start")?,
            byte_len: get(row, "byte_len")?,
        })
    };
    found.iter().map(piece).collect()
}

/// What clean-up would do to texts older than that many days; changes nothing.
pub async fn cleanup_dry_run(
    client: &impl GenericClient,
    older_than_days: i32,
    actor: &str,
) -> Result<Value> {
    const SQL: &str = "select fn_iu_op_cleanup_dry_run(p_older_than_days => $1, p_actor => $2) as answer";
    let answer = row(client, "previewing clean-up", SQL, &[&older_than_days, &actor]).await?;
    get(&answer, "answer")
}
