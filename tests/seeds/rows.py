"""Which test or document answers each row of the acceptance table that the project started from.

The project grew from five sets of notes about running the original: commands, printed shapes and numbers, wishes. Each
of their 93 statements is one `Row`. `proofs` are test ids ("tests/x/test_y.py::test_z", without parameters) or sections
of documents ("README.md#Heading"). `note` says why a row needs none.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A statement of the notes.

    Kind: C command that must work, N numeric result, B behaviour or shape, D document, F flaw of the notes themselves;
    several where a row is several things. Numeric results that need published weights and data sets stay targets.
    """

    number: int
    kind: str
    statement: str
    proofs: tuple[str, ...] = ()
    note: str = ""


ROWS = (
    Row(
        1,
        "DF",
        "the original stops at torch 1.9, as later ones lack THC",
        ("README.md#Install", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
    ),
    Row(
        2,
        "C",
        "python setup.py build develop --user",
        (
            "tests/repository/test_packaging.py::test_install",
            "README.md#Install",
        ),
    ),
    Row(
        3,
        "C",
        "the list of packages to install",
        (
            "tests/repository/test_packaging.py::test_packages_that_the_original_asks_for_are_installed_or_named_as_not_needed",
            "README.md#Install",
        ),
    ),
    Row(
        4,
        "C",
        "the environment variable DATASET is a data root",
        (
            "tests/config/test_path_search.py::test_order_of_the_roots",
            "README.md#Data",
        ),
    ),
    Row(
        5,
        "C",
        "test_grounding_net.py on COCO with GLIP-T(A)",
        ("tests/seeds/test_evaluation_commands.py::test_coco",),
        note="the command as written, at small sizes on a CPU",
    ),
    Row(
        6,
        "CF",
        "the same from another working directory",
        (
            "tests/seeds/test_evaluation_commands.py::test_coco",
            "tests/seeds/test_evaluation_commands.py::test_from_another_directory",
        ),
        note="the command as written, at small sizes on a CPU",
    ),
    Row(
        7,
        "C",
        "the same on one GPU",
        ("tests/seeds/test_evaluation_commands.py::test_coco",),
        note="the command as written, at small sizes on a CPU",
    ),
    Row(
        8,
        "C",
        "the same on eight GPUs through torch.distributed.launch",
        ("tests/seeds/test_evaluation_commands.py::test_several_processes",),
        note="the command as written, at small sizes and with two processes on a CPU",
    ),
    Row(
        9,
        "N",
        "GLIP-T(A) zero-shot COCO AP .429",
        ("README.md#Evaluation", "tests/repository/test_readme_evaluation.py::test_published_figures"),
        note="a target, with the command to measure it",
    ),
    Row(
        10,
        "B",
        "the COCO prompt: 80 names joined by '. ', 699 characters",
        ("tests/seeds/test_text_rows.py::test_coco_prompt",),
    ),
    Row(
        11,
        "B",
        "GLIP-T(A): Swin-T, FPN, BERT, and a tower without fusion",
        ("tests/seeds/test_model_rows.py::test_tower_of_glip_a_sees_no_text",),
    ),
    Row(
        12,
        "C",
        "a link DATASET/coco to the data, and a clear error without it",
        (
            "tests/config/test_path_search.py::test_links_are_followed",
            "tests/config/test_path_search.py::test_nothing_found_names_file_and_roots",
            "README.md#Data",
        ),
    ),
    Row(
        13,
        "C",
        "COCO fine-tuning on eight GPUs",
        ("tests/seeds/test_training_commands.py::test_coco_fine_tuning",),
        note="the command as written, at small sizes and with two processes on a CPU",
    ),
    Row(
        14,
        "C",
        "the same on sixteen GPUs",
        ("tests/seeds/test_training_commands.py::test_coco_fine_tuning",),
        note="the command as written, at small sizes and with two processes on a CPU",
    ),
    Row(
        15,
        "CF",
        "a debug configuration for one GPU",
        ("tests/seeds/test_training_commands.py::test_debug_configuration",),
    ),
    Row(
        16,
        "C",
        "a command of a cluster's wrapper",
        note="the wrapper is no part of the project; the command in it is row 5",
    ),
    Row(
        17,
        "C",
        "the tokenizer is fetched beforehand, or read from a folder",
        (
            "tests/text/test_tokenizer.py::test_a_vocabulary_alone_is_enough_for_bert",
            "tests/seeds/test_model_rows.py::test_text_encoder_from_a_folder",
            "README.md#Real weights",
        ),
    ),
    Row(
        18,
        "B",
        "the whole configuration, 453 entries, round-trips",
        ("tests/config/test_shipped_files.py::test_printed_configuration_of_453_entries_merges_back",),
    ),
    Row(
        19,
        "B",
        "log lines about checkpointing and fusion when the model is built",
        ("tests/seeds/test_model_rows.py::test_log_lines",),
    ),
    Row(
        20,
        "B",
        "three parts: backbone, rpn, heads; rpn takes features and makes boxes and losses",
        ("tests/seeds/test_model_rows.py::test_parts_of_the_detector",),
    ),
    Row(
        21,
        "B",
        "the text encoder returns aggregate, embedded, masks, hidden; text-fused bodies update only hidden",
        (
            "tests/seeds/test_model_rows.py::test_text_features",
            "tests/seeds/test_model_rows.py::test_text_fused_body_updates_only_hidden",
        ),
    ),
    Row(22, "B", "Swin-T stage shapes of three 800x1216 images", ("tests/seeds/test_model_rows.py::test_swin_stages",)),
    Row(
        23,
        "B",
        "MHA-S is one-way (text to image), MHA-B two-way",
        ("tests/seeds/test_model_rows.py::test_fusion_directions",),
    ),
    Row(
        24,
        "B",
        "the ten outputs of the head and the shapes of its first level",
        ("tests/seeds/test_model_rows.py::test_outputs_of_the_head",),
    ),
    Row(
        25,
        "B",
        "call signatures of the anchor generator and the loss evaluator with its seven losses",
        (
            "tests/seeds/test_training_rows.py::test_call_signatures",
            "tests/seeds/test_anchor_rows.py::test_images_may_be_a_list_or_a_tensor",
        ),
    ),
    Row(26, "B", "call signature of the box selector", ("tests/seeds/test_training_rows.py::test_call_signatures",)),
    Row(
        27,
        "B",
        "the message for a missing annotation file, with the places searched",
        ("tests/config/test_path_search.py::test_nothing_found_names_file_and_roots",),
    ),
    Row(
        28,
        "C",
        "links of annotations and pictures into DATASET/coco",
        (
            "tests/config/test_path_search.py::test_links_are_followed",
            "README.md#Data",
        ),
    ),
    Row(29, "F", "pictures of results", note="the pictures are not in the notes"),
    Row(
        30,
        "D",
        "what GoldG is made of",
        ("README.md#Real weights", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
    ),
    Row(
        31,
        "CF",
        "LVIS minival on one process",
        ("tests/seeds/test_evaluation_commands.py::test_lvis",),
        note="the command as written, at small sizes on a CPU",
    ),
    Row(
        32,
        "C",
        "LVIS minival on four processes",
        ("tests/seeds/test_evaluation_commands.py::test_several_processes",),
        note="the command as written, at small sizes and with two processes on a CPU",
    ),
    Row(
        33,
        "B",
        "the first LVIS prompt: forty cleaned names",
        ("tests/seeds/test_text_rows.py::test_first_lvis_prompt",),
    ),
    Row(
        34,
        "B",
        "class scores come from the dot-product logits, averaged over the tokens of a class, any number of classes",
        (
            "tests/modeling/test_token_scores.py::test_equals_the_definition",
            "tests/modeling/test_token_scores.py::test_historical_functions_put_labels_into_columns_and_grow_where_they_must",
        ),
    ),
    Row(
        35,
        "C",
        "COCO with four images per batch",
        ("tests/seeds/test_evaluation_commands.py::test_coco",),
        note="the command as written, at small sizes on a CPU",
    ),
    Row(
        36,
        "CF",
        "pre-training on two nodes; a grounding-only configuration",
        (
            "tests/seeds/test_training_commands.py::test_pre_training_on_mixed_data",
            "tests/seeds/test_training_commands.py::test_training_on_grounding_data_alone",
            "tests/config/test_shipped_files.py::test_mixed_grounding_differs_from_goldg_in_data_and_batch",
            "README.md#Training",
        ),
        note="the commands as written, at small sizes and with two processes on a CPU",
    ),
    Row(
        37,
        "D",
        "nnodes, node_rank, nproc_per_node, master_addr, master_port",
        ("README.md#Several GPUs", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
    ),
    Row(
        38,
        "B",
        "what a mixed-grounding sample looks like",
        (
            "tests/seeds/test_text_rows.py::test_positive_map_of_eight_boxes",
            "tests/data/test_grounding_datasets.py::test_training_item",
        ),
    ),
    Row(
        39,
        "B",
        "anchors per level of a 535x480 image: 4080, 1020, 255, 72, 20",
        ("tests/seeds/test_anchor_rows.py::test_number_of_anchors_per_level",),
    ),
    Row(40, "B", "what target assignment returns", ("tests/seeds/test_training_rows.py::test_targets",)),
    Row(
        41,
        "B",
        "the positive map of eight boxes: 8x256 with nine ones",
        ("tests/seeds/test_text_rows.py::test_positive_map_of_eight_boxes",),
    ),
    Row(
        42,
        "B",
        "18134 anchors; those without a box have the last token column as target",
        ("tests/seeds/test_training_rows.py::test_targets",),
    ),
    Row(
        43,
        "B",
        "the class loss: focal, 80 columns, divided by the mean number of positives",
        ("tests/seeds/test_training_rows.py::test_losses",),
    ),
    Row(
        44,
        "B",
        "the token loss: masked binary focal loss, divided by the mean number of positives",
        ("tests/seeds/test_training_rows.py::test_losses",),
    ),
    Row(
        45,
        "B",
        "box loss: GIoU weighted by centerness; centerness loss: binary cross-entropy",
        ("tests/seeds/test_training_rows.py::test_losses",),
    ),
    Row(
        46,
        "D",
        "commits that the notes and this project refer to",
        ("README.md#The original", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
    ),
    Row(
        47,
        "C",
        "pip install -r requirements.txt, then python setup.py build develop",
        (
            "tests/repository/test_packaging.py::test_requirements_are_the_dependencies",
            "tests/repository/test_packaging.py::test_install",
            "README.md#Install",
        ),
    ),
    Row(
        48,
        "B",
        "COCO in the folder ./coco",
        ("tests/config/test_path_search.py::test_coco_may_lie_in_the_project_root",),
    ),
    Row(49, "C", "weights under pretrain/", ("tests/seeds/test_training_commands.py::test_scripts",)),
    Row(
        50,
        "C",
        "four training scripts",
        ("tests/seeds/test_training_commands.py::test_scripts", "README.md#Training"),
        note="the two for eight devices with two processes on a CPU",
    ),
    Row(51, "C", "parameters of those scripts", ("tests/seeds/test_training_commands.py::test_scripts",)),
    Row(
        52,
        "B",
        "accuracy and throughput are printed after training",
        (
            "tests/seeds/test_training_commands.py::test_scripts",
            "tests/engine/training/test_validation_run.py::test_run_with_validation",
        ),
    ),
    Row(
        53,
        "N",
        "fine-tuning on COCO reaches 54.5 to 54.7",
        ("README.md#Evaluation", "tests/repository/test_readme_evaluation.py::test_published_figures"),
        note="a target: it needs COCO, the published weights and eight GPUs",
    ),
    Row(
        54,
        "N",
        "1.13 images per second on one device",
        ("README.md#Evaluation", "tests/repository/test_readme_evaluation.py::test_published_figures"),
        note="a target of the same kind; the training step itself is measured in benchmarks/results",
    ),
    Row(
        55,
        "D",
        "change log of the port",
        ("README.md#The original", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
        note="the date of its first release; the rest of its history is its own",
    ),
    Row(
        56,
        "DN",
        "figures of the paper",
        ("README.md#Evaluation", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
    ),
    Row(
        57,
        "D",
        "description of the method",
        ("README.md#How it works", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
    ),
    Row(
        58,
        "N",
        "256 tokens; long prompts are split; LVIS with forty classes per prompt",
        (
            "tests/text/test_prompt.py::test_long_lists_fill_prompts_greedily",
            "tests/seeds/test_evaluation_commands.py::test_lvis",
        ),
    ),
    Row(
        59,
        "N",
        "figures of the five models",
        ("README.md#Evaluation", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
        note="targets, with the command to measure them",
    ),
    Row(
        60,
        "D",
        "data of the five models",
        ("README.md#Real weights", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
    ),
    Row(
        61,
        "D",
        "numbers of phrases and pseudo boxes",
        ("README.md#Real weights", "tests/seeds/test_document_rows.py::test_what_the_section_says"),
    ),
    Row(
        62,
        "D",
        "ODinW and ways of tuning",
        (
            "README.md#Evaluation",
            "README.md#Fine-tuning",
            "tests/text/test_prompt.py::test_aquarium_prompt_maps_names_only",
            "tests/seeds/test_model_rows.py::test_what_a_tuning_mode_trains",
            "tests/seeds/test_document_rows.py::test_what_the_section_says",
        ),
    ),
    Row(
        63,
        "C",
        "a container image",
        (
            "tests/repository/test_packaging.py::test_dockerfile_has_the_cuda_that_torch_is_built_for",
            "README.md#Install",
        ),
    ),
    Row(
        64,
        "C",
        "published checkpoints, and a BERT folder without editing code",
        (
            "tests/utils/test_model_zoo.py::test_published_names_and_addresses",
            "tests/seeds/test_model_rows.py::test_text_encoder_from_a_folder",
            "README.md#Real weights",
        ),
    ),
    Row(
        65,
        "CF",
        "configs/coco/val.yaml",
        ("tests/config/test_shipped_files.py::test_coco_task_names_the_real_annotation_files",),
    ),
    Row(
        66,
        "N",
        "GLIP-T zero-shot COCO AP .466",
        ("README.md#Evaluation", "tests/repository/test_readme_evaluation.py::test_published_figures"),
        note="a target, with the command to measure it",
    ),
    Row(
        67,
        "B",
        "the token positions of the 80 COCO names",
        ("tests/text/test_prompt.py::test_captions_and_maps_as_recorded",),
    ),
    Row(
        68,
        "B",
        "text features (1, 256, 768), after projection (1, 256, 256)",
        ("tests/seeds/test_model_rows.py::test_outputs_of_the_head",),
    ),
    Row(
        69,
        "B",
        "post-processing: threshold, centerness, top 1000, decode, NMS .6, 100",
        (
            "tests/modeling/rpn/test_inference.py::test_matches_the_recording",
            "tests/modeling/rpn/test_inference.py::test_the_threshold_comes_before_the_centerness_and_the_score_is_a_root",
        ),
    ),
    Row(
        70,
        "B",
        "how many boxes each level of one image keeps",
        note="the numbers depend on the weights; rows 69 and 84 hold",
    ),
    Row(71, "F", "two numbers of anchors mixed up", note="they come from different images"),
    Row(
        72,
        "B",
        "boxes are decoded from deltas of centre and size",
        ("tests/modeling/test_box_coder.py::test_center_coder_matches_the_recording",),
    ),
    Row(
        73,
        "B",
        "arguments that a training data set is built with",
        ("tests/seeds/test_training_data_rows.py::test_arguments_of_a_training_set",),
        note="but for local_debug, which nothing reads",
    ),
    Row(
        74,
        "B",
        "coco_grounding_train is CocoGrounding on DATASET/coco",
        (
            "tests/config/test_paths_catalog.py::test_every_built_in_name_has_its_factory",
            "tests/config/test_paths_catalog.py::test_arguments_are_paths_under_the_first_root",
        ),
    ),
    Row(75, "B", "the 256 token ids of the COCO prompt", ("tests/text/test_tokenizer.py::test_coco_prompt",)),
    Row(
        76,
        "B",
        "embedded is masked, aggregate its mean, hidden unmasked",
        ("tests/seeds/test_model_rows.py::test_text_features",),
    ),
    Row(
        77,
        "B",
        "targets of a COCO batch",
        ("tests/seeds/test_training_data_rows.py::test_targets_of_a_batch",),
    ),
    Row(
        78,
        "B",
        "one positive map is both class truth and word truth",
        (
            "tests/seeds/test_training_rows.py::test_targets",
            "tests/data/test_collate.py::test_batch_of_two_sizes",
        ),
    ),
    Row(79, "C", "few-shot fine-tuning", ("tests/seeds/test_finetuning_commands.py::test_few_shot",)),
    Row(
        80,
        "CF",
        "triples of shots, epochs and copies",
        (
            "tests/seeds/test_finetuning_commands.py::test_few_shot",
            "tests/seeds/test_finetuning_commands.py::test_every_triple",
        ),
        note='the notes write "4_200_2" for five shots; it runs as four',
    ),
    Row(81, "C", "prompt tuning", ("tests/seeds/test_finetuning_commands.py::test_prompt_tuning",)),
    Row(
        82,
        "B",
        "what each way of tuning trains",
        (
            "tests/seeds/test_model_rows.py::test_what_a_tuning_mode_trains",
            "tests/engine/tuning/test_tuning_modes.py::test_mode_trains_what_is_recorded",
        ),
    ),
    Row(
        83,
        "B",
        "level and anchor shapes of a training batch; fusion leaves them as they are",
        (
            "tests/seeds/test_model_rows.py::test_levels_of_a_training_batch",
            "tests/seeds/test_anchor_rows.py::test_number_of_anchors_per_level",
        ),
    ),
    Row(
        84,
        "B",
        "ATSS: nine nearest anchors, threshold mean + deviation, the best box wins",
        (
            "tests/modeling/test_atss.py::test_matches_the_recording",
            "tests/modeling/test_atss.py::test_a_case_by_hand",
        ),
    ),
    Row(
        85,
        "N",
        "losses of one step",
        ("tests/parity/test_training_golden.py::test_losses",),
        note="plausibility only, as the batch is unknown",
    ),
    Row(
        86,
        "C",
        "headings of sections without content",
        (
            "README.md#Data",
            "README.md#Training",
            "README.md#Fine-tuning",
            "README.md#Evaluation",
            "tests/cli/test_data_download.py::test_list_shows_every_set",
            "tests/repository/test_readme_training.py::test_every_command_is_run_somewhere",
            "tests/repository/test_readme_finetuning.py::test_coco",
            "tests/repository/test_readme_finetuning.py::test_collection",
            "tests/repository/test_readme_evaluation.py::test_one_process",
        ),
        note="every one of them is a command in README",
    ),
    Row(
        87,
        "B",
        "the demo: size, tokens, phrases, spans, threshold",
        (
            "tests/seeds/test_text_rows.py::test_caption_of_the_demo",
            "tests/engine/test_predictor_glip.py::test_seed_example",
            "tests/data/test_transforms.py::test_resize_table",
            "README.md#Evaluation",
            "tests/repository/test_readme_evaluation.py::test_published_figures",
        ),
    ),
    Row(88, "B", "anchors of the first level", ("tests/seeds/test_anchor_rows.py::test_first_level",)),
    Row(89, "B", "anchors of the last level", ("tests/seeds/test_anchor_rows.py::test_last_level",)),
    Row(
        90,
        "B",
        "grid sizes; the anchor generator takes an ImageList or a tensor",
        ("tests/seeds/test_anchor_rows.py::test_images_may_be_a_list_or_a_tensor",),
    ),
    Row(91, "B", "the printed module tree", ("tests/seeds/test_model_rows.py::test_module_tree",)),
    Row(
        92,
        "D",
        "places in the original's code",
        note="they say where the original does what the specification describes",
    ),
    Row(93, "F", "the tail of a web page", note="unrelated to the project"),
)
