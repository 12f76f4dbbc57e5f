from tests.helpers.words import (
    hub as hub,
    tiny as tiny,
    tokenizer_folder as tokenizer_folder,
    write as write,
)
