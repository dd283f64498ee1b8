//! Which keys the secrets of this database are encrypted with, and encrypting them anew.
//!
//! Once all of them are encrypted, that is noted (`secret_sealing`), and from then on a secret in clear is not believed:
//! else whoever can write to the database could set one that he knows.

use std::collections::BTreeSet;

use posthorn_domain::id::SubscriptionId;
use posthorn_domain::subscription::SecretField;
use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, ConnectionTrait, DbBackend, EntityTrait as _,
    IntoActiveModel as _, QueryFilter as _, QueryOrder as _, QuerySelect as _, Statement,
};
use uuid::Uuid;

use super::database::Transaction;
use super::entity::subscriptions::{Column, Entity, Model};
use super::notices::{self, Notice};
use super::vault::{self, Clear, Opened, Vault};
use super::{Error, Store, tx};

/// Subscriptions that are read at once, and changed in one transaction: it locks them.
const SLICE: u64 = 200;

/// Subscriptions that are named where their secrets cannot be read: enough to begin with.
const NAMED_MAX: usize = 20;

/// How the secrets of the database stand under the keys that are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// All are encrypted with the key that is written with; or there is no key, and they stand in clear.
    AsConfigured,
    /// Some are encrypted with the previous key, or stand in clear although there is a key.
    InPart,
    /// Some stand in clear although all were encrypted before. They are not believed.
    ClearRefused,
}

/// What [`Store::seal_anew`] does beside encrypting.
#[derive(Clone, Copy, Debug, Default)]
pub struct SealOptions {
    /// Secrets in clear are encrypted, too, where all were encrypted before.
    pub accept_clear: bool,
    /// Rows of which nothing can be read name the current key, so that theirs is not asked for any more.
    pub give_up: bool,
}

/// What [`Store::seal_anew`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Subscriptions whose secrets were written anew.
    pub written: u64,
    /// How many of those could not be read before, and can now.
    pub mended: u64,
    /// Subscriptions of which a secret cannot be read still.
    pub unreadable: u64,
    /// The first of those, with what cannot be read.
    pub named: Vec<(SubscriptionId, BTreeSet<SecretField>)>,
}

impl Store {
    /// Whether the secrets of this database can be read; an error that names the variable where not. By
    /// `subscriptions_by_seal`, so in as many steps as there are keys. As long as it was not noted that all are
    /// encrypted, all of them are looked at.
    pub async fn check_secrets(&self) -> Result<Sealed, Error> {
        let mut sealed = Sealed::AsConfigured;
        let mut after = String::new();
        while let Some(id) = self.next_seal(&after).await? {
            if !self.vault.knows(&id) {
                return Err(Error::Unusable(format!(
                    "POSTHORN_ENCRYPTION_KEY: secrets in this database are encrypted with a key that is not given \
                     (its id is {id}); expected that one here or in POSTHORN_PREVIOUS_ENCRYPTION_KEY"
                )));
            }
            if self.vault.current_id() != Some(&id) {
                sealed = Sealed::InPart;
            }
            after = id;
        }
        if self.vault.current_id().is_none() {
            // Whoever starts it without a key wants them in clear from now on.
            if !is_clear_allowed(&self.patient).await? {
                tx::run_patiently(self, |tx| Box::pin(set_clear_allowed(tx, true))).await?;
            }
            return Ok(sealed);
        }
        let in_clear = any_row_in_clear(&self.patient).await?;
        if !is_clear_allowed(&self.patient).await? {
            self.vault.note_all_sealed();
            return Ok(if in_clear { Sealed::ClearRefused } else { sealed });
        }
        if in_clear || sealed == Sealed::InPart {
            return Ok(Sealed::InPart);
        }
        Ok(if self.is_any_in_clear().await? || !self.note_all_sealed().await? {
            Sealed::InPart
        } else {
            sealed
        })
    }

    async fn next_seal(&self, after: &str) -> Result<Option<String>, Error> {
        let next = live().filter(Column::SealedBy.gt(after)).order_by_asc(Column::SealedBy).limit(1);
        Ok(next.one(&self.patient).await?.and_then(|row| row.sealed_by))
    }

    /// Whether a secret stands in clear, in a row that says otherwise as well.
    async fn is_any_in_clear(&self) -> Result<bool, Error> {
        let mut after = Uuid::nil();
        loop {
            let mut rows = self.slice_after(after).await?;
            if rows.iter_mut().any(vault::stands_in_clear) {
                return Ok(true);
            }
            match rows.last() {
                Some(row) => after = row.id,
                None => return Ok(false),
            }
        }
    }

    async fn slice_after(&self, after: Uuid) -> Result<Vec<Model>, Error> {
        let find = live().filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(SLICE);
        Ok(find.all(&self.patient).await?)
    }

    /// Notes that all secrets are encrypted; false where a row in clear came meanwhile.
    async fn note_all_sealed(&self) -> Result<bool, Error> {
        let noted = tx::run_patiently(self, |tx| {
            Box::pin(async move {
                // First, so that whoever writes in clear waits, or has written.
                set_clear_allowed(tx, false).await?;
                let in_clear = any_row_in_clear(tx).await?;
                set_clear_allowed(tx, in_clear).await?;
                Ok(!in_clear)
            })
        });
        let noted = noted.await?;
        if noted {
            self.vault.note_all_sealed();
        }
        Ok(noted)
    }

    /// Encrypts with the current key what is not, each secret read with whichever key opens it, or in clear; and reads
    /// it again before that is committed. What cannot be read stays as it is, and is told. Notes at the end that all
    /// are encrypted. May be ended and begun again, while nodes that know both keys run.
    pub async fn seal_anew(&self, options: SealOptions) -> Result<Resealed, Error> {
        if self.vault.current_id().is_none() {
            return Err(Error::Unusable(
                "POSTHORN_ENCRYPTION_KEY: expected a key to encrypt with".to_owned(),
            ));
        }
        let clear_allowed = is_clear_allowed(&self.patient).await?;
        if !clear_allowed {
            self.vault.note_all_sealed();
        }
        let clear = if clear_allowed || options.accept_clear { Clear::Believed } else { Clear::Refused };
        let reseal = Reseal { vault: self.vault.clone(), clear, give_up: options.give_up };
        let (mut done, mut after) = (Resealed::default(), Uuid::nil());
        loop {
            // Nothing is locked for those that are as they should be.
            let rows = self.slice_after(after).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            let ids: Vec<Uuid> =
                rows.into_iter().filter(|row| reseal.has_to_do(row.clone())).map(|row| row.id).collect();
            if ids.is_empty() {
                continue;
            }
            let reseal = reseal.clone();
            let slice =
                tx::run_patiently(self, move |tx| Box::pin(async move { reseal.slice(tx, ids).await }));
            done.add(slice.await?);
        }
        self.note_all_sealed().await?;
        Ok(done)
    }
}

impl Resealed {
    fn add(&mut self, slice: Self) {
        self.written += slice.written;
        self.mended += slice.mended;
        self.unreadable += slice.unreadable;
        let room = NAMED_MAX.saturating_sub(self.named.len());
        self.named.extend(slice.named.into_iter().take(room));
    }
}

/// How rows are encrypted anew.
#[derive(Clone)]
struct Reseal {
    vault: Vault,
    clear: Clear,
    give_up: bool,
}

impl Reseal {
    fn has_to_do(&self, row: Model) -> bool {
        let opened = self.vault.open_anyhow(row, self.clear);
        !opened.is_current || !opened.closed.is_empty()
    }

    async fn slice(&self, tx: &Transaction, ids: Vec<Uuid>) -> Result<Resealed, Error> {
        let mut done = Resealed::default();
        let mut written = Vec::new();
        let find = live().filter(Column::Id.is_in(ids)).order_by_asc(Column::Id);
        for mut row in tx::locking(tx, find).all(tx).await? {
            let id = SubscriptionId(row.id);
            let secrets = vault::secrets(&mut row).into_iter().filter_map(|secret| secret.text.get()).count();
            let opened = self.vault.open_anyhow(row.clone(), self.clear);
            if !opened.closed.is_empty() {
                done.unreadable += 1;
                done.named.push((id, opened.unreadable.clone()));
            }
            let says_current = row.sealed_by.as_deref() == self.vault.current_id();
            let nothing_opens = opened.closed.len() == secrets;
            if opened.is_current || nothing_opens && (says_current || !self.give_up) {
                continue;
            }
            let was_readable = self.vault.open(row).unreadable.is_empty();
            self.write(tx, &opened, was_readable).await?;
            if !was_readable {
                done.mended += u64::from(opened.closed.is_empty());
                // Its nodes hold it back: with a version of its own it is taken up again.
                notices::tell(tx, &Notice::Changed(id)).await?;
            }
            done.written += 1;
            written.push(opened);
        }
        self.check_written(tx, written).await?;
        Ok(done)
    }

    async fn write(&self, tx: &Transaction, opened: &Opened, was_readable: bool) -> Result<(), Error> {
        let mut row = self.vault.seal_but(opened.row.clone(), &opened.closed)?;
        if !was_readable {
            row.version = row.version.saturating_add(1);
        }
        let columns = vault::secrets(&mut row).map(|secret| secret.column);
        let mut change = row.into_active_model();
        for column in columns.into_iter().chain([Column::SealedBy, Column::Version]) {
            change.reset(column);
        }
        change.update(tx).await?;
        Ok(())
    }

    /// Reads again what was written: only what the current key alone leads back to what it was is committed.
    async fn check_written(&self, tx: &Transaction, written: Vec<Opened>) -> Result<(), Error> {
        let ids = written.iter().map(|opened| opened.row.id);
        let rows = live().filter(Column::Id.is_in(ids)).order_by_asc(Column::Id).all(tx).await?;
        if rows.len() != written.len() {
            return Err(Error::corrupt("rows that were written", rows.len()));
        }
        for (row, mut before) in rows.into_iter().zip(written) {
            let mut after = self.vault.open_anyhow(row, Clear::Refused);
            let pairs = vault::secrets(&mut after.row).into_iter().zip(vault::secrets(&mut before.row));
            let same = pairs.into_iter().all(|(after, before)| after.text.get() == before.text.get());
            if !(same && after.is_current && after.closed == before.closed) {
                return Err(Error::corrupt("secrets just written of subscription", before.row.id));
            }
        }
        Ok(())
    }
}

/// Learns whether secrets in clear are believed, where one of `rows` holds some; by primary key.
pub(super) async fn settle_doubts<'row>(
    connection: &impl ConnectionTrait,
    vault: &Vault,
    rows: impl IntoIterator<Item = &'row Model>,
) -> Result<(), Error> {
    if rows.into_iter().any(|row| vault.doubts(row)) && !is_clear_allowed(connection).await? {
        vault.note_all_sealed();
    }
    Ok(())
}

/// Refuses to write secrets in clear where all are encrypted: nobody would believe them.
pub(super) async fn may_write(tx: &Transaction, vault: &Vault) -> Result<(), Error> {
    if vault.current_id().is_some() {
        return Ok(());
    }
    // Locked, so that nobody notes meanwhile that all are encrypted.
    let lock = match tx.get_database_backend() {
        DbBackend::Postgres => " FOR SHARE",
        DbBackend::Sqlite | DbBackend::MySql => "",
    };
    if read_clear_allowed(tx, lock).await? {
        return Ok(());
    }
    let reason = "POSTHORN_ENCRYPTION_KEY: all secrets in this database are encrypted, and this process was started \
                  without a key to encrypt with";
    Err(Error::Secrets(reason.to_owned()))
}

async fn is_clear_allowed(connection: &impl ConnectionTrait) -> Result<bool, Error> {
    read_clear_allowed(connection, "").await
}

async fn read_clear_allowed(connection: &impl ConnectionTrait, lock: &str) -> Result<bool, Error> {
    let sql = format!("SELECT clear_allowed FROM secret_sealing WHERE id = 0{lock}");
    let ask = Statement::from_string(connection.get_database_backend(), sql);
    // The schema comes with this row. Without it nothing is known, and nothing refused.
    let row = connection.query_one(ask).await?;
    Ok(row.map(|row| row.try_get_by_index::<i16>(0)).transpose()?.is_none_or(|allowed| allowed != 0))
}

async fn set_clear_allowed(tx: &Transaction, allowed: bool) -> Result<(), Error> {
    let set = "INSERT INTO secret_sealing (id, clear_allowed) VALUES (0, $1) \
               ON CONFLICT (id) DO UPDATE SET clear_allowed = excluded.clear_allowed";
    tx::execute(tx, set, [i16::from(allowed).into()]).await?;
    Ok(())
}

/// By `subscriptions_by_seal`.
async fn any_row_in_clear(connection: &impl ConnectionTrait) -> Result<bool, Error> {
    Ok(live().filter(Column::SealedBy.is_null()).limit(1).one(connection).await?.is_some())
}

/// Subscriptions that have secrets.
fn live() -> sea_orm::Select<Entity> {
    Entity::find().filter(Column::DeletedAtMs.is_null())
}
