"""Which districts a process owns, where several share a city's readings and alarms."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Self

import msgspec

from broker.messages import OperatorRequest
from city.cityfile import City
from city.documents import suggestion
from city.errors import SettingError
from city.settings import Settings
from ingest.points import EVERYTHING


class Ownership(msgspec.Struct, frozen=True, kw_only=True):
    """The districts of a process; without any it owns whatever there is."""

    districts: tuple[str, ...] = ()
    sites: Mapping[str, str] = {}
    """The district of every site of the city."""
    leads: bool = True
    """Whether it answers for what is in no district that anybody knows."""

    @classmethod
    def of(cls, settings: Settings, city: City | None) -> Self:
        """What the settings say.

        Raises:
            SettingError: The city has no such district, or no one city is meant.
        """
        if not settings.districts:
            return cls()
        if city is None:
            raise SettingError(
                "--districts: the districts are those of one city; leave --every-city out"
            )
        known = [district.id for district in city.districts]
        for name in settings.districts:
            if name not in known:
                raise SettingError(
                    f"--districts: {city.city} has no district {name!r}; {suggestion(name, known)}"
                )
        return cls(
            districts=tuple(name for name in known if name in settings.districts),
            sites={site.id: site.district for site in city.sites},
            leads=known[0] in settings.districts,
        )

    @property
    def worker(self) -> str:
        """The name of the process among others: its districts in the order of the city file."""
        return ".".join(self.districts) or EVERYTHING

    def client_id(self, part: str, city: str) -> str:
        """The client identifier of a part's session; no two owners of a city have the same.

        A dot is in no identifier, and in no pattern of topics that an ACL might read it as.
        """
        return ".".join((f"cityeye-{part}-{city}", *self.districts))

    def part_of(self, request: OperatorRequest) -> OperatorRequest | None:
        """What a request asks of the alarms in these districts; None: another owner answers.

        One without targets that is for everybody is the caller's to tell.
        """
        if not self.districts:
            return request
        targets = tuple(target for target in request.targets if self._concerned(target))
        if not targets and (request.targets or not self.leads):
            return None
        return msgspec.structs.replace(request, targets=targets)

    def _concerned(self, target: str) -> bool:
        pattern = target.partition("/")[0]
        found = {district for site, district in self.sites.items() if fnmatchcase(site, pattern)}
        return not found.isdisjoint(self.districts) if found else self.leads
