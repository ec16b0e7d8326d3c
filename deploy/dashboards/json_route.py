"""Queries of the server's JSON routes, through Grafana's Infinity data source."""

from __future__ import annotations

from typing import Final, Literal

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.dashboard import DataSourceRef

SERVER: Final = DataSourceRef(type_val="yesoreyeram-infinity-datasource", uid="entropick-server")
Kind = Literal["string", "number", "timestamp_epoch_s"]


class JsonQuery(Dataquery):
    """A query of a JSON route: rows of a list, or of the columns of an object."""

    def __init__(self, url: str, root: str, columns: dict[str, Kind], *, columnar: bool = False) -> None:
        """Prepares a query of ``url``; ``root`` is the path to the list, or to the object of columns."""
        self._url, self._root, self._columns, self._columnar = url, root, columns, columnar

    def to_json(self) -> dict[str, object]:
        """Returns the query as the data source has it."""
        columns = [{"selector": name, "text": name, "type": kind} for name, kind in self._columns.items()]
        return {
            "refId": "A",
            "datasource": SERVER,
            "type": "json",
            "parser": "simple",
            "source": "url",
            "format": "table",
            "url": self._url,
            "url_options": {"method": "GET", "data": ""},
            "root_selector": self._root,
            "columns": columns,
            "filters": [],
            "json_options": {"columnar": self._columnar},
        }


class JsonQueryBuilder(Builder[Dataquery]):
    """A builder of such a query, as panels take them."""

    def __init__(self, query: JsonQuery) -> None:
        self._query = query

    def build(self) -> Dataquery:
        """Returns the query."""
        return self._query
