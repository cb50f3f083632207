"""The same transfer as one writes it without any sync: FastAPI, SQLAlchemy, and nobody told.

python bare_update.py PORT DATABASE_URL POOL_SIZE MAX_OVERFLOW
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import JSON, BigInteger, DateTime, String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables that are there."""


class User(Base):
    """A user, as the service has it."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    global_id: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(String(200))
    zone_id: Mapped[str | None] = mapped_column(String(64))
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON())
    version: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), onupdate=lambda: datetime.now(UTC)
    )

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - read by SQLAlchemy, not shared


class Destination(BaseModel):
    """Where a user goes."""

    zone_id: str | None


class UserDocument(BaseModel):
    """A user as it is answered."""

    id: int
    global_id: int
    name: str
    zone_id: str | None
    attributes: dict[str, Any]
    version: int


def main() -> None:
    """Serve until killed."""
    port, url, pool_size, max_overflow = sys.argv[1:5]
    engine = create_async_engine(
        url, pool_size=int(pool_size), max_overflow=int(max_overflow), pool_pre_ping=True
    )
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    app = FastAPI()

    @app.post("/users/{user_id}/transfer", response_model=UserDocument)
    async def transfer(user_id: int, destination: Destination) -> User:
        async with sessions() as session:
            user = await session.get(User, user_id)
            if user is None:
                raise HTTPException(404)
            user.zone_id = destination.zone_id
            await session.commit()
            return user

    uvicorn.run(app, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
