"""Pseudo-perplexity and masked places against transformers on torch; and what an export of the head gives there."""

import numpy as np
import pytest

import jaxprune as jp
from tests.helpers.tokenizers import write_bert
from tests.parity.reference import random_reference

torch = pytest.importorskip("torch", reason="live parity needs torch: make parity installs it")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of torch and transformers are not ours to fix

TEXT = "film cafe films 電 film cafe 影 films film films cafe cafe 電 影 films " * 4


@pytest.fixture
def folder(tmp_path):
    reference = random_reference("bert", "masked_lm", seed=3)
    reference.save_pretrained(tmp_path / "model")
    write_bert(tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def test_pseudo_perplexity_is_that_of_transformers(folder):
    import transformers

    reference = transformers.AutoModelForMaskedLM.from_pretrained(folder / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    losses = []
    for window in range(3):
        whole = [tokenizer.cls_token_id, *ids[window * 8 : window * 8 + 8], tokenizer.sep_token_id]
        for place in range(1, 9):
            masked = torch.tensor([whole])
            masked[0, place] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = reference(masked).logits[0, place]
            losses.append(float(torch.nn.functional.cross_entropy(logits[None], torch.tensor([whole[place]]))))
    scored = jp.evaluate(jp.load(folder / "model"), jp.tasks.text(folder / "text.txt", length=10, windows=3))
    assert scored.metrics["loss"] == pytest.approx(np.mean(losses), abs=2e-5)  # float32
    assert scored.score == pytest.approx(np.exp(np.mean(losses)), rel=2e-5)


def test_masked_places_are_read_as_by_the_pipeline(folder):
    import transformers

    reference = transformers.AutoModelForMaskedLM.from_pretrained(folder / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    theirs = transformers.pipeline("fill-mask", model=reference, tokenizer=tokenizer)("film [MASK] cafe films [MASK]")
    ours = jp.predict(jp.load(folder / "model"), "film [MASK] cafe films [MASK]")[0].masks
    for one, other in zip(ours, theirs, strict=True):
        assert [entry.id for entry in one] == [entry["token"] for entry in other]
        np.testing.assert_allclose([e.probability for e in one], [e["score"] for e in other], rtol=1e-4)


def test_a_pruned_model_is_exported_with_its_head(folder):
    import transformers

    dense = jp.load(folder / "model")
    texts = jp.Calibration.of_texts(["film cafe films", "cafe film 電", "films 影 cafe film"] * 20)
    small = jp.prune(dense, texts, jp.Budget(0.4))
    jp.export(small, folder / "small", fill_zeros=True)
    reference = transformers.AutoModelForMaskedLM.from_pretrained(folder / "small").eval()
    ids = np.random.RandomState(0).randint(5, 13, (2, 7))
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(np.asarray(jp.logits(small, ids)), expected, atol=2e-5)


def test_words_are_masked_as_by_transformers_collator(folder):
    """The shares of what becomes of each token: of 40,000 tokens, 0.008 is four standard deviations and more."""
    import transformers

    from jaxprune.tokens.encoded import Encoded
    from jaxprune.tokens.masking import masked_anew, masking_of
    from jaxprune.tokens.packing import batch_of
    from jaxprune.tokens.tokenizer import Tokenizer

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    model = jp.load(folder / "model")
    ids = np.random.RandomState(0).randint(5, len(tokenizer), (200, 200))
    ids[:, 0], ids[:, -1], ids[:, 7] = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id
    texts = [row.astype(np.int32) for row in ids]
    batch = batch_of([[row] for row in range(200)], Encoded(texts, texts), model.architecture, (200, 200, 1))
    ours = masked_anew(batch, masking_of(Tokenizer.of(model), model.architecture), 0.15, 0, 0)
    torch.manual_seed(0)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    theirs = collator([{"input_ids": torch.tensor(row)} for row in ids.tolist()])

    def shares(changed, labels):
        chosen = labels >= 0
        np.testing.assert_array_equal(labels[chosen], ids[chosen])
        np.testing.assert_array_equal(changed[~chosen], ids[~chosen])
        assert not chosen[:, [0, 7, 199]].any()
        masked, same = changed == tokenizer.mask_token_id, changed == ids
        return [np.mean(part) for part in (chosen, chosen & masked, chosen & same, chosen & ~masked & ~same)]

    expected = shares(theirs["input_ids"].numpy(), theirs["labels"].numpy())
    np.testing.assert_allclose(shares(np.asarray(ours.ids), np.asarray(ours.words)), expected, atol=0.008)
