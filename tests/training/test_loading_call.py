from nas_optuna.training.serialization import loading_call


def test_the_call_that_loads_a_network_names_its_file_whatever_its_characters() -> None:
    call = loading_call("conv", 'a "\U0001f4f7"/é.safetensors')
    assert eval(call.removeprefix("nas_optuna.load_network")) == 'a "\U0001f4f7"/é.safetensors'
