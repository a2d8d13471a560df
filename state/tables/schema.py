"""The one `MetaData` that every table is part of."""

import sqlalchemy as sa

metadata = sa.MetaData()
