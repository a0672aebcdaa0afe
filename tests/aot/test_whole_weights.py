"""The reading of schedules that holds programs to gathering one layer after another."""

import jax
import meshes
from jax.sharding import NamedSharding, PartitionSpec
from whole_weights import most_at_once, shapes_of_split_weights

# Two weights [8, 4] of 64 bytes in bfloat16, split in two; one is used before the other comes.
IN_TURN = """HloModule test, is_scheduled=true

ENTRY %main (a: bf16[4,4], b: bf16[4,4], x: bf16[2,8]) -> bf16[2,4] {
  %a = bf16[4,4]{1,0} parameter(0)
  %b = bf16[4,4]{1,0} parameter(1)
  %x = bf16[2,8]{1,0} parameter(2)
  %start = (bf16[4,4]{1,0}, bf16[8,4]{1,0:T(8,128)(2,1)}) all-gather-start(%a), dimensions={0}
  %whole.a = bf16[8,4]{1,0} get-tuple-element(%start), index=1
  %y = bf16[2,4]{1,0} dot(%x, %whole.a), metadata={op_name="jit(f)/dot (general)"}
  %whole.b = bf16[4,8]{0,1} all-gather(%b), dimensions={1}
  ROOT %z = bf16[2,4]{1,0} dot(%y, %whole.b)
}
"""
# Both are carried into a loop, whose body gathers a third.
IN_A_LOOP = """HloModule test, is_scheduled=true

%body (p: (bf16[8,4], bf16[4,8], bf16[4,4])) -> (bf16[8,4], bf16[4,8], bf16[4,4]) {
  %p = (bf16[8,4]{1,0}, bf16[4,8]{1,0}, bf16[4,4]{1,0}) parameter(0)
  %b.0 = bf16[8,4]{1,0} get-tuple-element(%p), index=0
  %b.1 = bf16[4,8]{1,0} get-tuple-element(%p), index=1
  %b.2 = bf16[4,4]{1,0} get-tuple-element(%p), index=2
  %third = bf16[8,4]{1,0} all-gather(%b.2), dimensions={0}
  %used = bf16[4,4]{1,0} fusion(%third, %b.0), kind=kOutput, calls=%fused
  ROOT %next = (bf16[8,4]{1,0}, bf16[4,8]{1,0}, bf16[4,4]{1,0}) tuple(%b.0, %b.1, %used)
}

ENTRY %main (a: bf16[4,4], b: bf16[4,4]) -> bf16[4,4] {
  %a = bf16[4,4]{1,0} parameter(0)
  %b = bf16[4,4]{1,0} parameter(1)
  %whole.a = bf16[8,4]{1,0} all-gather(%a), dimensions={0}
  %whole.b = bf16[4,8]{1,0} all-gather(%b), dimensions={1}
  %all = (bf16[8,4]{1,0}, bf16[4,8]{1,0}, bf16[4,4]{1,0}) tuple(%whole.a, %whole.b, %a)
  %loop = (bf16[8,4]{1,0}, bf16[4,8]{1,0}, bf16[4,4]{1,0}) while(%all), condition=%c, body=%body
  ROOT %end = bf16[4,4]{1,0} get-tuple-element(%loop), index=2
}
"""


def test_weights_that_are_gathered_in_turn_are_not_there_at_once():
    assert most_at_once(IN_TURN, {(4, 8)}) == 64
    lines = IN_TURN.splitlines()
    lines.insert(7, lines.pop(9))  # the second gather before the first product
    assert lines[7].startswith("  %whole.b")
    assert most_at_once("\n".join(lines), {(4, 8)}) == 128


def test_what_is_carried_into_a_loop_is_there_all_through_it():
    assert most_at_once(IN_A_LOOP, {(4, 8)}) == 3 * 64
    assert most_at_once(IN_A_LOOP, {(2, 8)}) == 0


def test_split_weights_have_the_shapes_of_a_whole_and_of_a_devices_whole():
    mesh = meshes.h100s((1, 4, 2))

    def placed(*axes):
        place = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct((3, 16, 8), "bfloat16", sharding=place)

    assert shapes_of_split_weights([placed()]) == set()
    expected = {(3, 8, 16), (8, 16), (3, 4, 16), (4, 16)}  # half of the last axis is a device's
    assert shapes_of_split_weights([placed(None, "fsdp", "tensor")]) == expected
