//! Which keys the secrets of this database are encrypted with, and encrypting them anew.

use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, Condition, EntityTrait as _, IntoActiveModel as _,
    QueryFilter as _, QueryOrder as _, QuerySelect as _,
};
use uuid::Uuid;

use super::entity::subscriptions::{Column, Entity};
use super::{Error, Store, tx};

/// Subscriptions in one transaction: it locks them.
const SLICE: u64 = 200;

/// Whether all secrets are encrypted with the key that is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// They are; or there is no key, and they stand in clear.
    AsConfigured,
    /// Some are encrypted with the previous key, or stand in clear although there is a key.
    InPart,
}

impl Store {
    /// Whether the secrets of this database can be read; an error that names the variable where not. By
    /// `subscriptions_by_seal`, so in as many steps as there are keys.
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
        if self.vault.current_id().is_some() {
            let clear = live().filter(Column::SealedBy.is_null()).limit(1).one(&self.orm).await?;
            if clear.is_some() {
                sealed = Sealed::InPart;
            }
        }
        Ok(sealed)
    }

    async fn next_seal(&self, after: &str) -> Result<Option<String>, Error> {
        let next = live().filter(Column::SealedBy.gt(after)).order_by_asc(Column::SealedBy).limit(1);
        Ok(next.one(&self.orm).await?.and_then(|row| row.sealed_by))
    }

    /// Encrypts with the current key what is not; returns of how many subscriptions. May be ended and begun again,
    /// while nodes that know both keys run.
    pub async fn seal_anew(&self) -> Result<u64, Error> {
        let Some(current) = self.vault.current_id() else {
            return Err(Error::Unusable(
                "POSTHORN_ENCRYPTION_KEY: expected a key to encrypt with".to_owned(),
            ));
        };
        let (mut sealed, mut after) = (0, Uuid::nil());
        loop {
            let (vault, current) = (self.vault.clone(), current.to_owned());
            let slice = tx::run(self, move |tx| {
                Box::pin(async move {
                    let other =
                        Condition::any().add(Column::SealedBy.is_null()).add(Column::SealedBy.ne(current));
                    let find = live().filter(Column::Id.gt(after)).filter(other);
                    let find = find.order_by_asc(Column::Id).limit(SLICE);
                    let rows = tx::locking(tx, find).all(tx).await?;
                    let (count, last) = (rows.len(), rows.last().map(|row| row.id));
                    for row in rows {
                        let row = vault.seal(vault.open(row)?)?;
                        let mut change = row.clone().into_active_model();
                        for column in SEALED {
                            change.reset(column);
                        }
                        change.update(tx).await?;
                    }
                    Ok((count, last))
                })
            });
            let (count, last) = slice.await?;
            sealed += count as u64;
            match last {
                Some(last) => after = last,
                None => return Ok(sealed),
            }
        }
    }
}

/// What is encrypted, and with what.
const SEALED: [Column; 5] = [
    Column::Headers,
    Column::SigningSecret,
    Column::SecretKey,
    Column::PreviousSigningSecret,
    Column::SealedBy,
];

/// Subscriptions that have secrets.
fn live() -> sea_orm::Select<Entity> {
    Entity::find().filter(Column::DeletedAtMs.is_null())
}
