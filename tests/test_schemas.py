"""Which parts of a schema describe a place: references, choices, and schemas that are none."""

from chat_values import values
from hypothesis import given

from distill.schemas import Place

SCHEMA = {
    "properties": {
        "to": {"type": "array", "items": {"$ref": "#/$defs/person"}},
        "size": {"anyOf": [{"type": "integer"}, {"enum": ["all"]}]},
    },
    "required": ["why"],
    "additionalProperties": {"type": "string"},
    "allOf": [{"properties": {"also": {"type": "number"}}}],
    "$defs": {
        "person": {"properties": {"name": {"maxLength": 3}, "friends": {"$ref": "#/properties/to"}}}
    },
}


def test_places_are_found_through_references_and_choices():
    root = Place.of(SCHEMA)
    assert root.keys == ["to", "size", "also", "why"]
    person = root.key("to").item(4)
    assert person.keys == ["name", "friends"]
    assert person.key("friends").item(0).key("name").parts == ({"maxLength": 3},)
    assert {"enum": ["all"]} in root.key("size").parts
    assert root.key("unheard of").parts == ({"type": "string"},)
    assert root.key("to").key("no such").parts == ()


def test_pointers_are_read_as_rfc_6901_has_them():
    for pointer in ("#/$defs/a~1b~0c", "#/%24defs/a~1b~0c", "#/anyOf/0"):
        schema = {"$ref": pointer, "anyOf": [{"title": "x"}], "$defs": {"a/b~c": {"title": "x"}}}
        assert {"title": "x"} in Place.of(schema).parts


def test_positions_of_a_list_have_their_own_schemas():
    for keyword in ("prefixItems", "items"):  # `items` before draft 2020-12
        place = Place.of({keyword: [{"title": "first"}, {"title": "second"}]})
        assert place.item(1).parts == ({"title": "second"},)
    rest = Place.of({"prefixItems": [{"title": "first"}], "items": {"title": "rest"}})
    assert rest.item(7).parts == ({"title": "rest"},)


def test_a_circle_ends():
    circle = {"$ref": "#", "anyOf": [{"$ref": "#/anyOf/0"}], "properties": {"a": {"$ref": "#"}}}
    place = Place.of(circle)
    for _ in range(50):
        place = place.key("a")
    assert place.keys == ["a"]


def test_a_reference_that_leads_nowhere_is_not_there():
    for pointer in ("https://x.example/y", "#/$defs/none", "#/anyOf/9", "#nowhere", "", 7):
        assert Place.of({"$ref": pointer, "anyOf": []}).key("a").parts == ()


@given(values, values)
def test_no_schema_is_too_odd(odd, other):
    for schema in (odd, {"properties": odd, "required": other, "items": odd, "anyOf": other}):
        place = Place.of(schema)
        assert isinstance(place.keys, list)
        assert isinstance(place.key("a").item(0).keys, list)
