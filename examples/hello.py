"""A self-testing script for `selfalign sandbox run`."""


def rotate(items: list[int], steps: int) -> list[int]:
    """Rotate to the right, around the end."""
    if not items:
        return []
    steps %= len(items)
    return items[-steps:] + items[:-steps] if steps else items[:]


assert rotate([1, 2, 3, 4], 1) == [4, 1, 2, 3]
assert rotate([1, 2, 3, 4], 5) == [4, 1, 2, 3]
assert rotate([], 3) == []
