"""The table of a dataset of series: one file, or several with the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xtorch.data.findings import Findings
from xtorch.data.tables import Table, find_tables, read_table
from xtorch.errors import DataError, XTorchError


def read_dataset(root: Path, findings: Findings) -> Table:
    """The dataset's table; several files of the same columns are one below the other.

    Raises:
        DataError: There is no table, or none that can be read.
    """
    paths = find_tables(root) or sorted(path for path in root.rglob("*.txt") if path.is_file())
    if not paths:
        raise DataError(
            "There is no table in the dataset",
            hint="upload a CSV or Parquet file with columns for date, series and value",
        )
    tables: list[Table] = []
    unreadable: list[str] = []
    reasons: list[XTorchError] = []
    for path in paths:
        name = str(path.relative_to(root))
        try:
            tables.append(read_table(path, name=name))
        except XTorchError as error:
            unreadable.append(name)
            reasons.append(error)
    if not tables:
        raise reasons[0]
    findings.add(
        "table.unreadable",
        "warning",
        "{num} file{s} cannot be read as a table",
        reasons[0].hint or "Save them as CSV in UTF-8." if reasons else "",
        unreadable,
    )
    main = max(tables, key=lambda table: table.num_rows)
    alike = [table for table in tables if set(table.columns) == set(main.columns)]
    findings.add(
        "table.other_columns",
        "warning",
        "{num} file{s} with other columns",
        "Only tables with the same columns are read together; join them into one table to use them.",
        (table.name for table in tables if table not in alike),
    )
    if len(alike) == 1:
        return main
    columns = {name: [cell for table in alike for cell in table.columns[name]] for name in main.columns}
    if len(main.columns) == 2:
        # Date and value only: then the file says which series it is.
        columns["file"] = [Path(table.name).stem for table in alike for _ in range(table.num_rows)]
    return Table(
        name=main.name,
        format=main.format,
        columns=columns,
        row_numbers=tuple(number for table in alike for number in table.row_numbers),
        encoding=main.encoding,
        delimiter=main.delimiter,
    )


def report_table(table: Table, findings: Findings) -> None:
    """Findings about rows that could not be read as they are."""

    def places(rows: Sequence[int]) -> list[str]:
        return [f"{table.name}:{row}" for row in rows]

    findings.add(
        "table.long_rows",
        "warning",
        "{num} row{s} with more cells than columns",
        "They are left out. Often a comma in a number is missing its quotes.",
        places(table.long_rows),
    )
    findings.add(
        "table.short_rows",
        "info",
        "{num} row{s} with fewer cells than columns",
        "What is missing is taken as empty.",
        places(table.short_rows),
    )
    findings.add(
        "table.broken_rows",
        "warning",
        "{num} line{s} that cannot be read",
        "They are left out.",
        places(table.broken_rows),
    )
    findings.add(
        "table.mixed_encoding",
        "info",
        "{num} row{s} in another encoding than the rest",
        "They were read in theirs. Save the table as UTF-8 to be sure of every letter.",
        places(table.mixed_encoding_rows),
    )
    findings.add(
        "table.repeated_header",
        "info",
        "{num} row{s} that repeat the header",
        "They are left out.",
        places(table.repeated_headers),
    )
