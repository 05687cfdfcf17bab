"""Endpoints: deploying engines, keys, and the conversation with the gateway.

The gateway asks for its configuration, applies it, and reports what it serves. A report says nothing
about which configuration it is of, so the Hub remembers the one that it gave last: only an endpoint
whose engine was in there becomes ready, or failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from ignition_client import wire
from ignition_hub.audit import service as audit
from ignition_hub.auth import policy
from ignition_hub.auth.actor import Actor, system
from ignition_hub.auth.tokens import new_token, sha256_hex, shown_prefix
from ignition_hub.db.engine import now, touch
from ignition_hub.endpoints.models import EndpointKeyRow, EndpointRow, GatewayDeliveryRow
from ignition_hub.errors import ConflictError, NotFoundError
from ignition_hub.ids import new_id
from ignition_hub.registry import service as registry
from ignition_hub.storage.blobs import parse_digest


class Endpoints:
    """
    Args:
        gateway_url: Where applications reach the gateway.
        internal_key_sha256: Hash of the key that this Hub process itself calls endpoints with.
    """

    def __init__(self, *, gateway_url: str, internal_key_sha256: str) -> None:
        self._gateway_url = gateway_url
        self._internal_key_sha256 = internal_key_sha256
        self.on_status: Callable[[Session, str, str, str], None] = lambda *_: None
        """Called with run id, engine id and ``ready`` or ``failed``, in the transaction that says so."""

    # ------------------------------------------------------------------------------------------- people

    def list_endpoints(self, session: Session, actor: Actor) -> list[wire.Endpoint]:
        policy.require(actor, "read")
        rows = session.scalars(
            select(EndpointRow)
            .where(EndpointRow.organisation_id == actor.organisation_id)
            .order_by(EndpointRow.created_at.desc(), EndpointRow.name)
        )
        return [self._endpoint(session, row) for row in rows]

    def show(self, session: Session, actor: Actor, name: str) -> wire.Endpoint:
        """
        Raises:
            NotFoundError: No such endpoint.
        """
        policy.require(actor, "read")
        return self._endpoint(session, self._find(session, actor, name))

    def new_key(self, session: Session, actor: Actor, name: str) -> wire.NewKey:
        """A new key, shown this once; the one before stops working."""
        policy.require(actor, "endpoint.key")
        row = self._find(session, actor, name)
        session.execute(delete(EndpointKeyRow).where(EndpointKeyRow.endpoint_id == row.id))
        key = new_token("igne")
        session.add(
            EndpointKeyRow(
                sha256=sha256_hex(key), endpoint_id=row.id, prefix=shown_prefix(key), created_at=now(session)
            )
        )
        audit.record(session, actor, "endpoint.key", name)
        touch(session, "gateway")
        return wire.NewKey(name=name, key=key, prefix=shown_prefix(key))

    def delete(self, session: Session, actor: Actor, name: str) -> None:
        """
        Raises:
            NotFoundError: No such endpoint.
        """
        policy.require(actor, "endpoint.delete")
        row = self._find(session, actor, name)
        self._delete(session, row)
        audit.record(session, actor, "endpoint.delete", name)

    def require_predict(self, session: Session, actor: Actor, name: str) -> None:
        """
        Raises:
            NotFoundError: No such endpoint in the actor's organisation.
        """
        policy.require(actor, "endpoint.predict")
        self._find(session, actor, name)

    # -------------------------------------------------------------------------------------- deployments

    def deploy(self, session: Session, actor: Actor, *, name: str, engine_id: str, run_id: str) -> str:
        """The endpoint `name` shall serve this engine; made if there is none.

        Returns:
            Its status.

        Raises:
            ConflictError: Another organisation has an endpoint of this name.
        """
        row = session.scalar(select(EndpointRow).where(EndpointRow.name == name).with_for_update())
        if row is not None and row.organisation_id != actor.organisation_id:
            raise ConflictError("The endpoint's name is taken.", value=name, hint="Choose another name.")
        moment = now(session)
        if row is None:
            row = EndpointRow(
                id=new_id(),
                organisation_id=actor.organisation_id,
                name=name,
                engine_id=engine_id,
                run_id=run_id,
                status="starting",
                created_at=moment,
                deployed_at=moment,
            )
            session.add(row)
        elif row.engine_id != engine_id:
            if row.previous_engine_id is None:
                row.previous_engine_id, row.previous_run_id = row.engine_id, row.run_id
            row.engine_id, row.run_id = engine_id, run_id
            row.status, row.error, row.deployed_at = "starting", None, moment
        else:
            return row.status
        audit.record(session, actor, "endpoint.deploy", f"{name} {engine_id}")
        touch(session, "gateway")
        return row.status

    def state(self, session: Session, name: str, engine_id: str) -> tuple[str, wire.JobError | None]:
        """How far the deployment of an engine is: ``starting``, ``ready``, ``failed`` or ``gone``."""
        row = session.scalar(select(EndpointRow).where(EndpointRow.name == name))
        if row is None or row.engine_id != engine_id:
            return "gone", None
        return row.status, wire.JobError.model_validate(row.error) if row.error else None

    def undo(self, session: Session, actor: Actor, name: str, engine_id: str) -> None:
        """Takes back a deployment that failed: the engine before it is served on, or nothing."""
        row = session.scalar(select(EndpointRow).where(EndpointRow.name == name).with_for_update())
        if row is None or row.engine_id != engine_id:
            return
        if row.previous_engine_id is None:
            self._delete(session, row)
        else:
            row.engine_id, row.run_id = row.previous_engine_id, row.previous_run_id
            row.previous_engine_id = row.previous_run_id = None
            row.status, row.error = "starting", None
        audit.record(session, actor, "endpoint.undo", f"{name} {engine_id}")
        touch(session, "gateway")

    def restarting(self, session: Session) -> None:
        """The gateway is about to start: nothing is served until it says so."""
        session.execute(
            update(EndpointRow).where(EndpointRow.status == "ready").values(status="starting", error=None)
        )

    # ------------------------------------------------------------------------------------------ gateway

    def config(self, session: Session) -> wire.GatewayConfig:
        """What the gateway shall serve."""
        endpoints = []
        for row in session.scalars(select(EndpointRow).order_by(EndpointRow.name)):
            engine = registry.show_engine(session, system(row.organisation_id), row.engine_id)
            keys = session.scalars(
                select(EndpointKeyRow.sha256)
                .where(EndpointKeyRow.endpoint_id == row.id)
                .order_by(EndpointKeyRow.sha256)
            )
            endpoints.append(
                wire.GatewayEndpoint(
                    name=row.name,
                    engine_digest=engine.digest,
                    key_sha256=[*keys, self._internal_key_sha256],
                    public_key_pem=engine.public_key_pem,
                )
            )
        content = wire.GatewayConfig(etag="", endpoints=endpoints).model_dump_json()
        return wire.GatewayConfig(etag=hashlib.sha256(content.encode()).hexdigest()[:32], endpoints=endpoints)

    def delivered(self, session: Session, config: wire.GatewayConfig) -> None:
        """The gateway is being given this configuration."""
        engines = {endpoint.name: endpoint.engine_digest for endpoint in config.endpoints}
        row = session.get(GatewayDeliveryRow, 1)
        if row is None:
            session.add(GatewayDeliveryRow(id=1, etag=config.etag, engines=engines))
        else:
            row.etag, row.engines = config.etag, engines

    def report(self, session: Session, actor: Actor, report: wire.GatewayReport) -> None:
        """What the gateway serves after it applied the configuration that it was given last."""
        policy.require(actor, "gateway.sync")
        delivery = session.get(GatewayDeliveryRow, 1)
        if delivery is None:
            return
        ready = set(report.ready) - report.failed.keys()
        for row in session.scalars(select(EndpointRow).with_for_update()):
            engine = registry.show_engine(session, system(row.organisation_id), row.engine_id)
            if delivery.engines.get(row.name) != engine.digest:
                continue  # the report is about another engine
            if row.name in ready:
                status, error = "ready", None
                row.previous_engine_id = row.previous_run_id = None
            elif row.name in report.failed:
                status, error = "failed", report.failed[row.name].model_dump(mode="json")
            else:
                continue
            row.status, row.error = status, error
            if row.run_id:
                self.on_status(session, row.run_id, row.engine_id, status)
                touch(session, f"run:{row.run_id}")

    def require_blob(self, session: Session, actor: Actor, digest: str) -> str:
        """The organisation whose deployed engine this is.

        Raises:
            NotFoundError: No endpoint serves it.
        """
        policy.require(actor, "gateway.sync")
        parse_digest(digest)
        for row in session.scalars(select(EndpointRow)):
            engine = registry.show_engine(session, system(row.organisation_id), row.engine_id)
            if engine.digest == digest:
                return row.organisation_id
        raise NotFoundError("No endpoint serves this engine.", value=digest)

    # ------------------------------------------------------------------------------------------- inside

    def _find(self, session: Session, actor: Actor, name: str) -> EndpointRow:
        row = session.scalar(select(EndpointRow).where(EndpointRow.name == name))
        if row is None or row.organisation_id != actor.organisation_id:
            raise NotFoundError("There is no such endpoint.", value=name)
        return row

    @staticmethod
    def _delete(session: Session, row: EndpointRow) -> None:
        session.execute(delete(EndpointKeyRow).where(EndpointKeyRow.endpoint_id == row.id))
        session.delete(row)
        touch(session, "gateway")

    def _endpoint(self, session: Session, row: EndpointRow) -> wire.Endpoint:
        engine = registry.show_engine(session, system(row.organisation_id), row.engine_id)
        owner, _, name = engine.model.partition("/")
        model = registry.show_model(session, system(row.organisation_id), owner, name)
        prefix = session.scalar(
            select(EndpointKeyRow.prefix).where(EndpointKeyRow.endpoint_id == row.id).limit(1)
        )
        comparison = engine.receipt.get("comparison")
        speedup = comparison.get("speedup") if isinstance(comparison, dict) else None
        return wire.Endpoint.model_validate(
            {
                "name": row.name,
                "url": f"{self._gateway_url}/v1/endpoints/{row.name}/predict",
                "open_inference_url": self._gateway_url,
                "template": model.template,
                "model": engine.model,
                "model_version": engine.model_version,
                "engine_id": row.engine_id,
                "run_id": row.run_id,
                "status": row.status,
                "error": row.error,
                "key_prefix": prefix,
                "created_at": row.created_at,
                "speedup": speedup if isinstance(speedup, int | float) else None,
            }
        )
