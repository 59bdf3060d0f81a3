//! Who we are to the database.

use deadpool_postgres::GenericClient;

use super::{get, row};
use crate::error::Result;

/// The role that we logged in as, as its rights are given to.
pub async fn login(client: &impl GenericClient) -> Result<String> {
    const SQL: &str = "select session_user::text as login";
    get(&row(client, "asking who we are", SQL, &[]).await?, "login")
}
