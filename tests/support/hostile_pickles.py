"""Attacks inside the pickle of a file of torch.save; see `tests.support.hostile`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.hostile_writers import (
    CANARY as CANARY,
)
from tests.support.hostile_writers import (
    bare_pickle,
    copied_lists,
    exec,
    hash_bomb,
    legacy_os_system,
    linear,
    many_views,
    nested_pickle,
    os_system,
    own_parent,
    pickled,
    posix_system,
    second_pickle,
    shared_parts,
    state,
    textual_pickle,
)
from tests.support.pickles import (
    call,
    instance,
    mapping,
    module_state,
    name,
    number,
    numbers,
    program,
    sequential,
    storage,
    tensor,
    text,
    write_zip,
)

_CALLS = "would call"

#: file -> what the refusal says, how to write it.
PICKLES: dict[str, tuple[str, Callable[[Path], None]]] = {
    # calls
    "os_system.pt": (r"names os\.system", os_system),
    "posix_system.pt": (r"names posix\.system", posix_system),
    "python2_exec.pt": (r"names builtins\.exec", exec),
    "legacy_os_system.pt": (r"names os\.system", legacy_os_system),
    "second_pickle.pt": (r"bytes follow the end of the pickle", second_pickle),
    "nested_pickle.pt": (rf"{_CALLS} torch\.storage\._load_from_bytes", nested_pickle),
    "bare_pickle.pkl": (r"bare Python pickle", bare_pickle),
    "textual_pickle.pkl": (r"bare Python pickle", textual_pickle),
    "torch_hub.pt": (
        rf"{_CALLS} torch\.hub\.load",
        pickled(call("torch.hub", "load", text("a/b"), text("c"))),
    ),
    "numpy_load.pt": (rf"{_CALLS} numpy\.load", pickled(call("numpy", "load", text("x.npy")))),
    "constructor.pt": (
        rf"{_CALLS} torch\.nn\.modules\.linear\.Linear",
        pickled(call("torch.nn.modules.linear", "Linear", number(10**6), number(10**6))),
    ),
    "bytearray.pt": (
        r"names builtins\.bytearray",
        pickled(call("builtins", "bytearray", number(8 * 10**9))),
    ),
    "float_tensor.pt": (
        rf"{_CALLS} torch\.FloatTensor",
        pickled(call("torch", "FloatTensor", number(4 * 10**9))),
    ),
    "sparse.pt": (
        rf"{_CALLS} torch\.serialization\._get_layout",
        pickled(call("torch.serialization", "_get_layout", text("torch.sparse_csr"))),
    ),
    "called_list.pt": (r"not a named function", pickled(b"])R")),
    "partial_of_text.pt": (
        r"does not name its function",
        pickled(call("functools", "partial", text("os.system"))),
    ),
    "getattr.pt": (
        r"names builtins\.getattr",
        pickled(call("builtins", "getattr", name("torch", "hub"), text("load"))),
    ),
    "stack_global_number.pt": (r"by something that is no name", pickled(b"K\x01K\x02\x93")),
    "object_with_arguments.pt": (
        r"with arguments of its own",
        pickled(name("torch.nn.modules.linear", "Linear") + b"K\x04\x85\x81"),
    ),
    # work without end
    "hash_bomb.pt": (r"key of type tuple", pickled(hash_bomb())),
    "deep_tuple_key.pt": (r"steps to read", pickled(b"})" + b"\x85" * 1_100_000 + b"K\x01s")),
    "deep_tuple.pt": (r"no weights found", pickled(b")" + b"\x85" * 500_000)),
    "deep_list.pt": (
        r"nests too deep",
        pickled(sequential(depth=b"]" * 5_000 + b"a" * 4_999)),
    ),
    "own_parent.pt": (r"nests deeper", pickled(own_parent())),
    "shared_parts.pt": (r"more than 50,000 parts", pickled(shared_parts(24))),
    "copied_lists.pt": (r"steps to read", pickled(copied_lists())),
    "many_steps.pt": (r"steps to read", pickled(b"(" + b"N" * 1_100_000 + b"t")),
    "long_integer.pt": (r"an integer of 200 bytes", pickled(b"\x8a\xc8" + b"\x01" * 200)),
    "long_text.pt": (r"a text of", pickled(b"X\xff\xff\xff\x7f")),
    "long_bytes.pt": (r"bytes of unnamed data", pickled(b"B\xff\xff\xff\x7f")),
    "list_key.pt": (r"key of type list", pickled(b"}]K\x01s")),
    "set_of_lists.pt": (r"members that are not plain", pickled(b"\x8f(]\x90")),
    # abuse of the interpreter
    "set_item_of_list.pt": (r"sets an item of a list", pickled(b"]K\x00K\x01s")),
    "set_items_of_none.pt": (r"sets items of a NoneType", pickled(b"N(K\x00K\x01u")),
    "append_to_dict.pt": (r"appends to a dict", pickled(b"}K\x01a")),
    "build_dict.pt": (r"sets the state of a dict", pickled(b"}}b")),
    "build_twice.pt": (r"not one set of attributes", pickled(sequential() + b"}b")),
    "state_is_list.pt": (
        r"not one set of attributes",
        pickled(instance("torch.nn.modules.container", "Sequential", b"]")),
    ),
    "memo_unset.pt": (r"damaged near byte", pickled(b"h\x07")),
    "memo_far.pt": (r"damaged near byte", pickled(b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff")),
    "empty_stack.pt": (r"damaged near byte", pickled(b"R")),
    "no_mark.pt": (r"damaged near byte", pickled(b"t")),
    "odd_items.pt": (r"a dictionary key has no value", pickled(b"}(K\x01u")),
    "short_tuple.pt": (r"a tuple lacks its members", pickled(b"K\x01\x87")),
    "never_stops.pt": (r"damaged near byte", lambda path: write_zip(path, b"\x80\x02N")),
    "unfinished.pt": (r"in the middle of an object", pickled(b"NN")),
    "invalid_utf8.pt": (r"damaged near byte", pickled(b"X\x02\x00\x00\x00\xff\xfe")),
    "endless_name.pt": (r"a name without an end", pickled(b"c" + b"a" * 2_000)),
    "cut_number.pt": (r"cut short", lambda path: write_zip(path, b"\x80\x02J\x01")),
    "opcode_inst.pt": (r"opcode b'i'", pickled(b"(ios\nsystem\n")),
    "opcode_obj.pt": (r"opcode b'o'", pickled(b"(No")),
    "opcode_extension.pt": (r"opcode b'\\x82'", pickled(b"\x82\x01")),
    "opcode_buffer.pt": (r"opcode b'\\x97'", pickled(b"\x97")),
    "opcode_persid.pt": (r"opcode b'P'", pickled(b"P0\n")),
    # tensors
    "missing_storage.pt": (r"are missing", pickled(mapping({"w": tensor((2,), (1,))}))),
    "short_storage.pt": (
        r"holds 16 bytes, but the pickle says 4,000",
        lambda path: write_zip(path, state(tensor((1000,), (1,))), {"0": bytes(16)}),
    ),
    "stride_0.pt": (
        r"repeats a storage",
        lambda path: write_zip(
            path, state(tensor((10**6, 10**6), (0, 0), numel=1)), {"0": bytes(4)}
        ),
    ),
    "offset_outside.pt": (
        r"outside its storage",
        lambda path: write_zip(
            path, state(tensor((4,), (1,), numel=8, offset=10**6)), {"0": bytes(32)}
        ),
    ),
    "stride_outside.pt": (
        r"outside its storage",
        lambda path: write_zip(path, state(tensor((2, 2), (7, 1), numel=8)), {"0": bytes(32)}),
    ),
    "negative_size.pt": (r"plausible whole numbers", pickled(tensor((-1,), (1,), numel=1))),
    "negative_stride.pt": (r"plausible whole numbers", pickled(tensor((2,), (-1,)))),
    "huge_size.pt": (r"plausible whole numbers", pickled(tensor((2**60,), (0,), numel=1))),
    "negative_offset.pt": (r"do not belong together", pickled(tensor((2,), (1,), offset=-5))),
    "many_dimensions.pt": (r"9 dimensions", pickled(tensor((1,) * 9, (1,) * 9))),
    "rank_mismatch.pt": (r"do not belong together", pickled(tensor((1, 1), (1,)))),
    "not_a_storage.pt": (
        r"does not refer to a storage",
        pickled(call("torch._utils", "_rebuild_tensor_v2", b"K\x00" * 1, number(0), b")", b")")),
    ),
    "two_lengths.pt": (
        r"in two ways",
        pickled(mapping({"a": tensor((2,), (1,)), "b": tensor((3,), (1,))})),
    ),
    "complex_storage.pt": (
        r"storage of the kind 'torch\.ComplexFloatStorage'",
        pickled(storage("0", 4, "ComplexFloatStorage")),
    ),
    "storage_by_text.pt": (r"not a storage", pickled(text("storage") + b"Q")),
    "many_views.pt": (
        r"many times larger than the file",
        lambda path: write_zip(path, program(many_views(1_000)), {"0": bytes(100_000)}),
    ),
    # networks that are not what they seem
    "forward_replaced.pt": (
        r"replaces its own 'forward'",
        pickled(sequential(forward=sequential())),
    ),
    "eval_replaced.pt": (r"replaces its own 'eval'", pickled(sequential(eval=b"N"))),
    "compiled_call.pt": (
        r"replaces its own '_compiled_call_impl'",
        pickled(sequential(_compiled_call_impl=name("torch.nn.functional", "relu"))),
    ),
    "class_replaced.pt": (
        r"replaces its own '__class__'",
        pickled(sequential(__class__=name("torch.nn.modules.linear", "Linear"))),
    ),
    "part_hidden_by_attribute.pt": (
        r"two parts called 'fc', one hiding",
        pickled(
            sequential(
                fc=name("torch.nn.functional", "relu"), _modules=mapping({"fc": sequential()})
            )
        ),
    ),
    "part_hidden_by_buffer.pt": (
        r"two parts called 'fc', one hiding",
        pickled(sequential(_buffers=mapping({"fc": b"N"}), _modules=mapping({"fc": sequential()}))),
    ),
    "forward_hook.pt": (
        r"carries _forward_hooks",
        pickled(sequential(_forward_hooks=b"}K\x00" + sequential() + b"s")),
    ),
    "state_dict_hook.pt": (
        r"carries _load_state_dict_post_hooks",
        pickled(sequential(_load_state_dict_post_hooks=b"}K\x00" + sequential() + b"s")),
    ),
    "inner_hook.pt": (
        r"carries _forward_pre_hooks",
        pickled(
            sequential(
                _modules=mapping({"0": linear(_forward_pre_hooks=b"}K\x00" + sequential() + b"s")})
            )
        ),
    ),
    "parameter_is_number.pt": (
        r"'weight' of the torch\.nn\.modules\.linear\.Linear .* is not a parameter",
        pickled(linear(_parameters=mapping({"weight": b"K\x01"}))),
    ),
    "buffer_is_text.pt": (
        r"'b' .* is not a tensor",
        pickled(linear(_buffers=mapping({"b": text("x")}))),
    ),
    "part_is_dict.pt": (
        r"'0' .* is not a network",
        pickled(sequential(_modules=mapping({"0": b"}"}))),
    ),
    "parts_are_list.pt": (r"not a table of names", pickled(sequential(_modules=b"]"))),
    "part_with_dot.pt": (
        r"a part without a name",
        pickled(sequential(_modules=mapping({"a.b": sequential()}))),
    ),
    "foreign_class.pt": (
        r"whole network of the class evil_pkg\.models\.Big",
        pickled(instance("evil_pkg.models", "Big", mapping(module_state()))),
    ),
    "parametrised.pt": (
        r"class torch\.nn\.utils\.parametrize\.ParametrizedLinear",
        pickled(
            instance("torch.nn.utils.parametrize", "ParametrizedLinear", mapping(module_state()))
        ),
    ),
    "graph_module.pt": (
        r"class torch\.fx\.graph_module\.GraphModule",
        pickled(instance("torch.fx.graph_module", "GraphModule", mapping(module_state()))),
    ),
    "detector.pt": (
        r"an object detector",
        pickled(
            instance(
                "torchvision.models.detection.faster_rcnn", "FasterRCNN", mapping(module_state())
            )
        ),
    ),
    "prepared_call.pt": (
        r"prepares a call of torch\.nn\.modules\.linear\.Linear",
        pickled(
            sequential(
                act=call("functools", "partial", name("torch.nn.modules.linear", "Linear"))
                + b"("
                + name("torch.nn.modules.linear", "Linear")
                + numbers(10**5, 10**5)
                + b"}}tb"
            )
        ),
    ),
    "function_attribute.pt": (
        r"refers to torch\.hub\.load",
        pickled(sequential(act=name("torch.hub", "load"))),
    ),
    "empty_wrapper.pt": (
        r"wraps no network",
        pickled(
            instance("torch.nn.parallel.data_parallel", "DataParallel", mapping(module_state()))
        ),
    ),
}
