"""The one place that calls Presidio and spaCy. Neither asks anything of a network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairtune.data.notes.spans import Span
from fairtune.errors import ConfigError

NO_MODEL = "none"
_USUAL = {"en": "en_core_web_lg"}
_EMAIL = "EmailRecognizer"
_LOGGER = "presidio-analyzer"
_TAGS = {
    "PERSON": "NAME",
    "LOCATION": "PLACE",
    "ORGANIZATION": "ORGANISATION",
    "NRP": "GROUP",
    "AGE": "AGE",
    "DATE_TIME": "DATE",
    "PHONE_NUMBER": "PHONE",
    "EMAIL_ADDRESS": "EMAIL",
    "EMAIL": "EMAIL",
    "URL": "URL",
    "IP_ADDRESS": "IP",
}
# Everything else that Presidio knows is the number of something: a licence, an account, a card.
_OTHER = "ID"


def is_installed() -> bool:
    """Tell whether Presidio is there."""
    return importlib.util.find_spec("presidio_analyzer") is not None


class Presidio:
    """Finds pieces of a note by Presidio's recognisers.

    Presidio's recogniser of e-mail addresses asks the network which domains there are, and passes
    over addresses of any other; it is replaced by one that takes whatever is written like an
    address.

    Args:
        language: Of the notes, as in `en`.
        model: spaCy model, an installed package or a folder, that finds names and places; `none`
            for none of them; None for `en_core_web_lg`, which must then be installed.
        threshold: Score from which a piece is replaced.

    Raises:
        ConfigError: Presidio or the model is not there, or does not know the language.
    """

    def __init__(self, language: str, model: str | None, threshold: float) -> None:
        if not is_installed():
            raise ConfigError(
                "the package presidio-analyzer is not installed",
                where="--with presidio",
                todo="pip install 'fairtune[notes]', or write --with rules",
            )
        self.language, self.threshold = language, threshold
        with _quiet():
            self._nlp = _pipeline(language, model)
            self._engine = _engine(self._nlp, language)
        self._reads_names = bool(self._nlp.pipe_names)

    def find(self, text: str) -> Sequence[Span]:
        """Return every piece with a score of the threshold or more."""
        with _quiet():
            found = self._engine.analyze(
                text, language=self.language, score_threshold=self.threshold
            )
        return [
            Span(
                item.start,
                item.end,
                _TAGS.get(item.entity_type, _OTHER),
                f"presidio.{item.recognition_metadata['recognizer_name']}",
            )
            for item in found
        ]

    def facts(self) -> dict[str, Any]:
        """Return versions, model, recognisers, and what is not looked for."""
        meta = self._nlp.meta
        recognisers = self._engine.registry.recognizers
        missed = [] if self._reads_names else ["names, places and organisations: no spaCy model"]
        return {
            "name": "presidio",
            "language": self.language,
            "threshold": self.threshold,
            "recognisers": sorted({str(recogniser.name) for recogniser in recognisers}),
            "spacy_model": (
                f"{meta['lang']}_{meta['name']} {meta['version']}" if self._reads_names else None
            ),
            "versions": {
                name: importlib.metadata.version(name) for name in ("presidio-analyzer", "spacy")
            },
            "not_looked_for": [
                *missed,
                "numbers that no recogniser of the list knows, such as a hospital's own",
                "rare diseases and events by which somebody can be known",
            ],
        }


def _pipeline(language: str, model: str | None) -> Any:
    import spacy

    name = model or _USUAL.get(language)
    if name == NO_MODEL:
        try:
            return spacy.blank(language)
        except ImportError:
            raise ConfigError(
                "spaCy does not know the language", where="--language", found=language
            ) from None
    if name is None or not (spacy.util.is_package(name) or Path(name).is_dir()):
        raise ConfigError(
            "Presidio finds names and places by a spaCy model, and this one is not here",
            where="--spacy-model",
            found=name,
            allowed="an installed package such as en_core_web_lg, a folder, none",
            todo="install the wheel of the model, which is not in the package index of Python, "
            "or write --spacy-model none and add --with rules: names are then found only by "
            "titles and labels",
        )
    try:
        loaded = spacy.load(name)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            "spaCy cannot load the model",
            where="--spacy-model",
            found=f"{name}: {str(error).splitlines()[0]}",
        ) from None
    if loaded.lang != language:
        raise ConfigError(
            "the spaCy model is for another language",
            where="--spacy-model",
            found=loaded.lang,
            allowed=language,
        )
    return loaded


def _engine(nlp: Any, language: str) -> Any:
    from presidio_analyzer import AnalyzerEngine, PatternRecognizer, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import EmailRecognizer

    known = NerModelConfiguration().model_to_presidio_entity_mapping or {}
    labels = {label for pipe in nlp.pipe_labels.values() for label in pipe}
    reader: Any = SpacyNlpEngine(
        models=[{"lang_code": language, "model_name": str(nlp.meta["name"])}],
        ner_model_configuration=NerModelConfiguration(labels_to_ignore=sorted(labels - {*known})),
    )
    # Loaded already: of its own it would fetch what it does not find.
    reader.nlp = {language: nlp}
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=reader)
    if not nlp.pipe_names:
        registry.remove_recognizer("SpacyRecognizer")
    registry.remove_recognizer(_EMAIL)
    registry.add_recognizer(
        PatternRecognizer(
            supported_entity="EMAIL_ADDRESS",
            patterns=EmailRecognizer.PATTERNS,
            supported_language=language,
            name=f"{_EMAIL} (any domain)",
        )
    )
    return AnalyzerEngine(registry=registry, nlp_engine=reader, supported_languages=[language])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Presidio from logging: nobody here can promise what it writes of a text."""
    logger = logging.getLogger(_LOGGER)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
