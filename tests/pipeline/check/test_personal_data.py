"""Personal data is recognised by how it is written and by its check digit; other numbers are not personal data."""

import pytest

from pipeline.check.personal_data import personal_data


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("mi cuenta es ES91 2100 0418 4502 0005 1332", ["account number (IBAN)"]),
        ("pay to DE89370400440532013000 please", ["account number (IBAN)"]),
        ("GB29 NWBK 6016 1331 9268 19", ["account number (IBAN)"]),
        ("with 4539 1488 0343 6467 it fails", ["card number"]),
        ("amex 3782-822463-10005 or 378282246310005", ["card number"]),
        ("mi dni es 12345678Z", ["identity number"]),
        ("nie X1234567L", ["identity number"]),
        ("write to marta.ibanez@correo.test, thanks", ["e-mail address"]),
        ("call +34 612 345 678", ["telephone number"]),
        ("ring 0049 (0)89 1234567", ["telephone number"]),
        ("(555) 123-4567", ["telephone number"]),
        ("móvil 655 201 947", ["telephone number"]),
        ("fijo 912 34 56 78", ["telephone number"]),
        ("020 7946 0958", ["telephone number"]),
        ("01 42 68 53 00", ["telephone number"]),
        ("dni 12345678Z, móvil 655 201 947", ["identity number", "telephone number"]),
    ],
)
def test_what_identifies_a_person_is_named(text: str, kinds: list[str]) -> None:
    assert personal_data(text) == kinds


@pytest.mark.parametrize(
    "text",
    [
        "order 4471 0092 of 2026-03-19, 118,40 euros",
        "ES91 2100 0418 4502 0005 1333",  # the check digits do not fit
        "4539 1488 0343 6468",
        "0000 0000 0000 0000",
        "12345678A",
        "version 2.10.3.4471, build 1709251200000",
        "`peers: [10.4.0.7:22067]` on 192.168.10.100",
        "between 2019-2021, 100 000 000 rows",
        "cost=0.00..911203.10 rows=18 width=412",
        "git clone git@github.com:tidepool/tidepool.git",
        "mia+backup@example.org is refused",
        "#a1b2c3 and 0x7ffee3c0a9b8",
        "member no. 20417, locker 112, 24/7",
        "1.2.840.113556.1.4.1941",
    ],
)
def test_other_numbers_are_not_personal_data(text: str) -> None:
    assert personal_data(text) == []
